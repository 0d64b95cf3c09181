"""Every error that edgeseed raises on purpose.

```text
EdgeseedError                 exit code 1
├── UsageError (ValueError)   exit code 2: the call was wrong, nothing was done
│   ├── UnknownNameError      a name that no table holds; the nearest is suggested
│   ├── ConfigError           a field, option or file of settings that does not fit
│   └── DataError             photos or labels that are missing, empty or broken
├── MissingDependencyError    an optional package is absent; the message is the command that
installs it
├── ArtifactError             a student file, bundle or result is not what it claims to be
│   └── SchemaVersionError    ... because a newer edgeseed wrote it
├── WorkError                 the work itself failed: diverged, disk full, device lost
│   └── InterruptedWorkError  ... because someone stopped it; exit code 130
└── GateError                 the work is done, and the result did not pass its gates
```

A message is one line: what was asked, what was found, and how to fix it.
"""

from typing import Any


class EdgeseedError(Exception):
    """Base of all errors that a caller may want to catch."""

    exit_code = 1


class UsageError(EdgeseedError, ValueError):
    """The call was wrong; nothing was done."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that is in no table; the message suggests the nearest and lists all."""


class ConfigError(UsageError):
    """A setting that does not exist or fit; the message names the field and what is allowed."""


class DataError(UsageError):
    """Photos or labels that are missing, empty or broken."""


class MissingDependencyError(EdgeseedError, ImportError):
    """An optional package is not installed; the message is the command that installs it."""


class ArtifactError(EdgeseedError):
    """A file that is not what it claims to be: truncated, changed, or of another kind."""


class SchemaVersionError(ArtifactError):
    """A file that a newer edgeseed wrote."""


class WorkError(EdgeseedError):
    """The work failed: training diverged, the disk is full, a device went away."""


class InterruptedWorkError(WorkError):
    """Someone stopped the work, and what can be kept was kept."""

    exit_code = 130
    """As a shell reports a program that Ctrl-C ended."""


class GateError(EdgeseedError):
    """The result was made, and did not pass its gates.

    Attributes:
        result: All that was measured, where there is more than the message says; else None.
    """

    def __init__(self, message: str, *, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
