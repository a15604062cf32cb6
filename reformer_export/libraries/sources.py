"""The libraries' C++ and CUDA sources: those that the package carries, or the clone's."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Final

from reformer_export.errors import RuntimeUnavailableError

_PACKAGE: Final = Path(__file__).parents[1]
PACKAGED: Final = _PACKAGE / "_sources" / "plugins"
CLONED: Final = _PACKAGE.parent / "plugins"
_NOT_COMPILED: Final = ("tests", "CMakePresets.json")
"""What is beside the sources in a clone, and in no package."""


def find_sources() -> Path:
    """The folder with CMakeLists.txt; RuntimeUnavailableError when this installation has none."""
    for folder in (PACKAGED, CLONED):
        if (folder / "CMakeLists.txt").is_file():
            return folder
    raise RuntimeUnavailableError(
        "the libraries' sources", f"no {PACKAGED}", "the sources in the package", "install the package again"
    )


@functools.lru_cache(maxsize=4)
def hash_sources(folder: Path) -> str:
    """SHA-256 (hex) of every source file's name and bytes in the folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if name.parts[0] not in _NOT_COMPILED:
            content = path.read_bytes()
            digest.update(f"{name.as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()
