"""What coremltools raised, as one line that names the operator and says what helps.

Its messages are written for who wrote the converter, and some are of Python alone ("'NoneType'
object has no attribute 'dtype'"). Which operator was converted then, or which of its passes ran, it
says in its log.
"""

import re

_ELSEWHERE = "export it to another target, such as onnx"
# coremltools 9.0, whose texts these are.
_UNKNOWN = (
    re.compile(r"Unsupported fx node \S+, kind (?P<kind>\S+)"),
    re.compile(r"PyTorch convert function for op '(?P<kind>[^']+)' not implemented"),
)
_TOO_MANY_AXES = re.compile(
    r"only supports tensors with rank <= (?P<most>\d+)\. "
    r'Layer "(?P<name>[^"]+)", with type "(?P<kind>[^"]+)", outputs a rank (?P<axes>\d+) tensor'
)
_CONVERTING = re.compile(r"converting '(?P<kind>[^']+)' op")
_PASS = re.compile(r"'(?P<name>[^']+)' graph pass produces the following error")


def refusal(error: Exception, log: list[str]) -> str:
    """The line for a network that coremltools does not convert.

    Args:
        error: What it raised.
        log: What it logged as errors meanwhile.
    """
    return f"Core ML cannot express this network: {_reason(error, log)}; {_ELSEWHERE}"


def _reason(error: Exception, log: list[str]) -> str:
    text = _first_line(error)
    for pattern in _UNKNOWN:
        if unknown := pattern.search(text):
            return f"coremltools has no {unknown['kind']}"
    if large := _TOO_MANY_AXES.search(text):
        return (
            f"its {large['kind']} {large['name']} has {large['axes']} axes, and Core ML has "
            f"{large['most']} at most"
        )
    said = "\n".join(log)
    if converting := _CONVERTING.search(said):
        return f"coremltools does not convert its {converting['kind']} ({text})"
    if passing := _PASS.search(said):
        return f"coremltools fails in its pass {passing['name']} ({text})"
    return f"coremltools fails on it ({text})"


def _first_line(error: Exception) -> str:
    """Without the full stop; of an error without words, or of Python's own, its type too."""
    line = str(error).strip().partition("\n")[0].removesuffix(".")
    kind = type(error).__name__
    if isinstance(error, AttributeError | TypeError | KeyError | IndexError | AssertionError):
        return f"{kind}: {line}" if line else kind
    return line or kind
