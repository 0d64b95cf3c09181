"""String literals of generated sources: any text in, a literal that holds exactly that text out.

A name may hold quotes, newlines, `$`, emoji or code. Whatever is not a plain ASCII letter, digit,
space or harmless sign is escaped by its number, so that nothing can end the literal early, start an
interpolation, or be read otherwise by an editor that guesses the encoding.
"""

from collections.abc import Callable

_PLAIN = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;_-+=()[]#@!?%^~|"
)


def kotlin_string(text: str) -> str:
    r"""A Kotlin literal: UTF-16 units as `\uXXXX`; `$` as well, since it starts a template."""
    return f'"{_escaped(text, _utf16_escape)}"'


def swift_string(text: str) -> str:
    r"""A Swift literal: code points as `\u{X}`.

    Swift strings hold no lone surrogates; each becomes U+FFFD.
    """
    whole = "".join("\ufffd" if 0xD800 <= ord(char) <= 0xDFFF else char for char in text)
    return f'"{_escaped(whole, _code_point_escape)}"'


def typescript_string(text: str) -> str:
    r"""A TypeScript or JavaScript literal: UTF-16 units as `\uXXXX`; safe inside `<script>` too."""
    return f'"{_escaped(text, _utf16_escape)}"'


def one_line(text: str) -> str:
    """Text for a comment or a README: letters, digits and harmless signs; the rest as `?`."""
    return "".join(char if char in _PLAIN else "?" for char in text)


def _escaped(text: str, escape: Callable[[str], str]) -> str:
    return "".join(char if char in _PLAIN else escape(char) for char in text)


def _utf16_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _code_point_escape(char: str) -> str:
    return f"\\u{{{ord(char):X}}}"
