"""The compilers of this machine, and what to do where a library is missing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Final

from reformer_export.errors import RuntimeUnavailableError

LEAST_NVCC: Final = (12, 8)
"""REFORMER_LEAST_NVCC of plugins/cmake/find_cuda.cmake."""

_SECONDS: Final = 60


def find_cxx_compiler() -> str | None:
    """The C++ compiler that CMake would take, such as /usr/bin/c++: $CXX or one on the PATH; None without."""
    named = os.environ.get("CXX")
    if named:
        return named if shutil.which(shlex.split(named)[0]) else None
    return next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def require_cxx_compiler() -> str:
    """As `find_cxx_compiler`; RuntimeUnavailableError when there is none."""
    compiler = find_cxx_compiler()
    if compiler is None:
        named = os.environ.get("CXX")
        got = f"no {named} ($CXX)" if named else "none"
        fix = "install one (Debian, Ubuntu: `apt install g++`), or name it with $CXX"
        raise RuntimeUnavailableError("C++ compiler", got, "g++ 9 or clang++ 10, or newer", fix)
    return compiler


def find_nvcc() -> Path | None:
    """CUDA's compiler on this machine, new enough: $CUDACXX, on the PATH or in /usr/local/cuda."""
    named = os.environ.get("CUDACXX")
    for name in (named,) if named else ("nvcc", "/usr/local/cuda/bin/nvcc"):
        found = shutil.which(name)
        if found is not None and _nvcc_version(found) >= LEAST_NVCC:
            return Path(found)
    return None


def _nvcc_version(nvcc: str) -> tuple[int, int]:
    """(13, 0); (0, 0) for what is no nvcc."""
    try:
        result = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError, ValueError):
        return (0, 0)
    found = re.search(r"release ([0-9]{1,4})\.([0-9]{1,4})", result.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def how_to_build(*options: str) -> str:
    """What to do for a library that is missing, or lacks what `options` of `build-library` bring."""
    command = f"`{' '.join(('reformer-export build-library', *options))}`"
    if find_cxx_compiler() is None:
        return f"install a C++ compiler such as g++, then {command} builds it"
    return f"{command} builds it"
