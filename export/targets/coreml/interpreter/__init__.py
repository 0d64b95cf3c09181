"""Core ML's own graph, run by a reference interpreter: parity and agreement without a Mac."""

from edgeseed.core.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "Interpreter": ".interpreter:Interpreter",
        "Program": ".program:Program",
        "open_interpreter": ".interpreter:open_interpreter",
        "read_program": ".reading:read_program",
    },
)
