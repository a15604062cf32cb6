"""The steps of a build: programs that are run with their output in a log, and tools that pip brings."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.errors import LibraryBuildError, OutputError, reason_of
from reformer_export.libraries.compiler import find_nvcc

Say = Callable[[str], None]
"""Takes a line for people."""

Advance = Callable[[int, int], None]
"""Takes how many of how many compilations are done."""

_NINJA_LINE: Final = re.compile(r"\[(\d{1,9})/(\d{1,9})\]")
_ERROR_LINE: Final = re.compile(r"error|fatal|no space left", re.IGNORECASE)
_SHOWN_CHARACTERS: Final = 200
_STOP_SECONDS: Final = 10


class Log:
    """Runs programs; what they print goes to the file `path`, one log of the last build."""

    def __init__(self, path: Path, say: Say, advance: Advance) -> None:
        self.path = path
        self._say = say
        self._advance = advance
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        except OSError as error:
            fix = "set XDG_CACHE_HOME to a folder that is yours"
            raise OutputError(path, f"'{reason_of(error)}'", "a writable log", fix) from error

    def say(self, line: str) -> None:
        """Tell the caller, and the log."""
        self._say(line)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(f"== {line}\n")

    def run(self, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Run a program to its end; it ends with this process's call, whatever ends that.

        Raises:
            LibraryBuildError: it cannot be started, or failed; the message has its likeliest line.
        """
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(f"$ {' '.join(command)}\n")
            stream.flush()
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    env={**os.environ, **(environment or {})},
                    start_new_session=True,
                )
            except OSError as error:
                raise self._failure(command, f"'{reason_of(error)}'") from error
            with _ended(process):
                assert process.stdout is not None
                reason = ""
                for line in process.stdout:
                    stream.write(line)
                    found = _NINJA_LINE.match(line)
                    if found:
                        self._advance(int(found[1]), int(found[2]))
                    elif not reason and _ERROR_LINE.search(line):
                        # CMake says what it is in the lines below.
                        rest = process.stdout.readline() if line.rstrip().endswith(":") else ""
                        stream.write(rest)
                        reason = f", '{' '.join((line + rest).split())[:_SHOWN_CHARACTERS]}'"
                status = process.wait()
        if status != 0:
            raise self._failure(command, f"exit status {status}{reason}")

    def _failure(self, command: tuple[str, ...], got: str) -> LibraryBuildError:
        name = Path(command[0]).name if command[1:3] != ("-m", "pip") else "pip"
        fix = f"see its output in {self.path}"
        return LibraryBuildError(f"building the library: {name}", got, "success", fix)


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """A block after which the process and its children (CMake's, Ninja's) have ended, whatever ends it."""
    try:
        yield
    finally:
        if process.poll() is None:
            _signal(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            _signal(process, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    with suppress(OSError):  # none of them is there any more
        os.killpg(process.pid, number)


@dataclass(frozen=True)
class Toolchain:
    """The programs of a build, `nvcc` where there are CUDA kernels in it; `cuda` is a folder that
    plugins/scripts/get_cuda_toolchain.sh made, where something of CUDA's or TensorRT's had to be fetched."""

    cmake: str
    ninja: str
    nvcc: Path | None = None
    cuda: Path | None = None


def get_toolchain(work: Path, sources: Path, with_cuda: bool, with_tensorrt: bool, log: Log) -> Toolchain:
    """What this machine has, and the rest from pip into the folder `work`."""
    cmake, ninja = shutil.which("cmake"), shutil.which("ninja")
    if cmake is None or ninja is None:
        log.say("Fetching CMake and Ninja (30 MB) with pip, into a temporary folder")
        tools = work / "tools"
        _pip_install(log, tools, sources / "requirements-build.txt")
        cmake = str(tools / "cmake" / "data" / "bin" / "cmake")
        ninja = str(_first_file(tools / "bin" / "ninja", tools / "ninja" / "data" / "bin" / "ninja"))
    if not with_cuda:
        return Toolchain(cmake, ninja)
    nvcc = find_nvcc()
    if nvcc is not None and not with_tensorrt:
        return Toolchain(cmake, ninja, nvcc)
    wanted = [
        *(["CUDA's compiler (105 MB)"] if nvcc is None else []),
        *(["TensorRT's headers"] if with_tensorrt else []),
    ]
    log.say(f"Fetching {' and '.join(wanted)} with pip, into a temporary folder")
    script, cuda = sources / "scripts" / "get_cuda_toolchain.sh", work / "cuda-toolchain"
    log.run("sh", str(script), str(cuda), environment={"PYTHON": sys.executable, "CUDACXX": str(nvcc or "")})
    return Toolchain(cmake, ninja, nvcc or cuda / "cuda" / "bin" / "nvcc", cuda)


def _pip_install(log: Log, target: Path, requirements: Path) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--no-compile", "--only-binary", ":all:")
    command = (sys.executable, "-m", "pip", "install", *options, "--target", str(target))
    log.run(*command, "-r", str(requirements))


def _first_file(*paths: Path) -> Path:
    return next((path for path in paths if path.is_file()), paths[0])
