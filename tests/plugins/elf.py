"""What a shared library exports and needs, as binutils say it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

SYSTEM_LIBRARIES = re.compile(r"lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so\.\d+|ld-linux-.*")
"""What every Linux that runs Python packages has."""


def list_exports(library: Path) -> list[str]:
    """The names of all dynamic symbols that `library` defines, sorted."""
    symbols = _run("nm", "-D", "--defined-only", str(library))
    return sorted(line.split()[-1] for line in symbols.splitlines())


def find_foreign_libraries(library: Path) -> list[str]:
    """The libraries that must be on the machine for `library` to load, less the system's own."""
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", _run("readelf", "-d", str(library)))
    assert needed, f"{library} needs not even a C library"
    return [name for name in needed if not SYSTEM_LIBRARIES.fullmatch(name)]


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
