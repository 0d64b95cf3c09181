"""The command group: subcommands are imported when they are used, so that `edgeseed --help` is instant."""

import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

