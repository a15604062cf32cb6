"""What the two native libraries have in common: where they are, and the version of their C interface.

A library is looked for in this order: where an environment variable says, among those that `reformer-export
build-library` built for this version, in the package.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries.cache import find_built_library

ABI_VERSION: Final = 7
"""REFORMER_ABI_VERSION of the header that this version's callers were written for."""

INSTALLED: Final = Path(__file__).parents[1] / "_native"
"""Where the package brings them."""

_PREFIX: Final = "" if sys.platform == "win32" else "lib"
_SUFFIX: Final = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def library_name(stem: str) -> str:
    """The file's name on this system: libSTEM.so on Linux."""
    return f"{_PREFIX}{stem}{_SUFFIX}"


def library_path(stem: str, variable: str) -> Path:
    """The file to use; it may be missing where the environment variable or the package should have it.

    Raises:
        RuntimeUnavailableError: the one that was built on this machine is damaged.
    """
    named = os.environ.get(variable)
    if named:
        return Path(named).resolve()
    name = library_name(stem)
    return (find_built_library(name) or INSTALLED / name).resolve()


def describe_origin(path: Path, variable: str) -> str:
    """Where the library that `library_path` found comes from, in words."""
    if os.environ.get(variable):
        return f"named by ${variable}"
    return "of the package" if path.parent == INSTALLED.resolve() else f"built here, in {path.parent}"


def check_abi(what: str, version: int, fix: str = "") -> None:
    """RuntimeUnavailableError about `what` unless its C interface is ours; 0 is an unknown version."""
    if version != ABI_VERSION:
        fix = f"take the library and the package from one release{fix}"
        raise RuntimeUnavailableError(what, f"ABI version {version or 'unknown'}", ABI_VERSION, fix)
