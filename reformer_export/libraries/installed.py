"""What the two native libraries have in common: where they are, and the version of their C interface."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from reformer_export.errors import RuntimeUnavailableError

ABI_VERSION: Final = 3
"""REFORMER_ABI_VERSION of the header that this version's callers were written for."""

INSTALLED: Final = Path(__file__).parents[1] / "_native"
"""Where the package brings them."""

_PREFIX: Final = "" if sys.platform == "win32" else "lib"
_SUFFIX: Final = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def library_name(stem: str) -> str:
    """The file's name on this system: libSTEM.so on Linux."""
    return f"{_PREFIX}{stem}{_SUFFIX}"


def library_path(stem: str, variable: str) -> Path:
    """The file that the environment variable names, else the one in the package; either may be missing."""
    return Path(os.environ.get(variable) or INSTALLED / library_name(stem)).resolve()


def check_abi(what: str, version: int, fix: str = "") -> None:
    """RuntimeUnavailableError about `what` unless its C interface is ours; 0 is an unknown version."""
    if version != ABI_VERSION:
        fix = f"take the library and the package from one release{fix}"
        raise RuntimeUnavailableError(what, f"ABI version {version or 'unknown'}", ABI_VERSION, fix)
