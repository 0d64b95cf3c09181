"""Prints the API of a real `tensorrt_bindings`, as far as the fake has it, as JSON.

`python record_tensorrt_api.py CLASS ...`, where the bindings and the libraries that they want can
be found. Run by `test_tensorrt_api.py`; nothing of TensorRT is called, only looked at.
"""

import json
import re
import sys
from typing import Any


def overloads(doc: str, name: str) -> list[list[str]]:
    """Parameter names of each signature in pybind11's docstring; `=` behind those with defaults."""
    found = []
    for line in doc.splitlines():
        match = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((.*)\) -> ", line)
        if match is None:
            continue
        # Types may hold commas in brackets; names stand before a colon at depth 0.
        depth, parts, part = 0, [], ""
        for character in match[1]:
            depth += character in "[(<"
            depth -= character in "])>"
            if character == "," and depth == 0:
                parts.append(part)
                part = ""
            else:
                part += character
        names = [
            text.split(":")[0].strip() + ("=" if " = " in text else "")
            for text in [*parts, part]
            if text.strip()
        ]
        found.append([text for text in names if text != "self"])
    return found


def describe(trt: Any, name: str) -> dict[str, Any]:
    """Member -> its signatures, or None for what is not called."""
    kind = getattr(trt if hasattr(trt, name) else trt.ILogger, name)
    if not isinstance(kind, type):  # a function of the module
        return {"()": None}
    members: dict[str, Any] = {}
    for member in dir(kind):
        if member.startswith("_") and member != "__init__":
            continue
        value = getattr(kind, member)
        doc = getattr(value, "__doc__", None) or ""
        members[member] = (overloads(doc, member) or None) if callable(value) else None
    return members


if __name__ == "__main__":
    import tensorrt_bindings

    api = {name: describe(tensorrt_bindings, name) for name in sys.argv[1:]}
    print(json.dumps({"version": tensorrt_bindings.__version__, "api": api}))
