"""Build the native libraries on this machine, from the sources in the package, into the user's cache.

Nothing is fetched or compiled unless this is called, and what is fetched is told before: CMake and Ninja
where the PATH has none, CUDA's compiler and TensorRT's headers where the machine has none, all with pip into
a folder that is gone afterwards, and headers that neither the package nor the system has
(plugins/cmake/find_headers.cmake).
"""

from __future__ import annotations

import dataclasses
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export import __version__
from reformer_export.artifact.files import json_text, sha256_of_file
from reformer_export.artifact.folder import new_folder
from reformer_export.errors import OutputError, RuntimeUnavailableError, reason_of
from reformer_export.libraries.build_options import LibraryOptions
from reformer_export.libraries.build_steps import Advance, Log, Say, Toolchain, get_toolchain
from reformer_export.libraries.cache import (
    RECORD_NAME,
    RECORD_VERSION,
    BuildRecord,
    BuiltFile,
    builds_folder,
    cache_folder,
    check_built_file,
    find_built_library,
    is_ours,
    read_record,
)
from reformer_export.libraries.compiler import require_cxx_compiler
from reformer_export.libraries.installed import INSTALLED, library_name
from reformer_export.libraries.operators import describe_library
from reformer_export.libraries.sources import find_sources, hash_sources
from reformer_export.libraries.tensorrt import describe_tensorrt_library

_OWNER_ONLY: Final = 0o700
_OPERATORS: Final = library_name("reformer_onnxruntime")
_PLUGINS: Final = library_name("reformer_tensorrt")


@dataclass(frozen=True)
class LibraryBuild:
    """What lies in `folder` now; `is_new` when it was built by this call, not by an earlier one."""

    folder: Path
    record: BuildRecord
    is_new: bool

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in self.record.files)

    @property
    def note(self) -> str:
        """What a user may not expect of this build, a sentence; "" for nothing."""
        used = find_built_library(_OPERATORS)
        if used is not None and used.parent != self.folder:
            return f"{used} is used in its place: it is newer, or has CUDA kernels and this one has none."
        packaged = INSTALLED / _OPERATORS
        if self.record.architectures or not packaged.is_file():
            return ""
        try:
            architectures = describe_library(packaged.resolve()).architectures
        except RuntimeUnavailableError:
            return ""
        if not architectures:
            return ""
        without = "The package's own library has CUDA kernels, this one has none"
        return f"{without}, and is used until {self.folder} is deleted."


@dataclass(frozen=True)
class _Plan:
    sources: Path
    sources_sha256: str
    architectures: str
    tensorrt: bool
    folder: Path
    log: Path


def build_libraries(
    options: LibraryOptions | None = None,
    overwrite: bool = False,
    say: Say = lambda _line: None,
    advance: Advance = lambda _done, _total: None,
) -> LibraryBuild:
    """Build what `options` ask for, unless it is built already; every command finds it from then on.

    Args:
        options: None for the operator library with its CPU kernels.
        overwrite: build it again.
        say: takes a line before each thing that is fetched or done.
        advance: takes how many of how many compilations are done.

    Raises:
        RuntimeUnavailableError: no compiler, no sources, no GPU where "native" needs one.
        LibraryBuildError: something could not be fetched or compiled; the message names the log.
        OutputError: the cache cannot be written.
    """
    plan = _make_plan(options or LibraryOptions())
    if not overwrite:
        record = _read_intact(plan.folder)
        if record is not None:
            return LibraryBuild(plan.folder, record, is_new=False)
    require_cxx_compiler()
    _make_own_folder(plan.folder.parent)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="reformer-export-build-") as name:
        work = Path(name)
        log = Log(plan.log, say, advance)
        toolchain = get_toolchain(work, plan.sources, bool(plan.architectures), plan.tensorrt, log)
        install = _compile(plan, toolchain, work, log)
        record = _keep(plan, install, time.monotonic() - started)
    return LibraryBuild(plan.folder, record, is_new=True)


def _make_plan(options: LibraryOptions) -> _Plan:
    sources, cache, builds = find_sources(), cache_folder(), builds_folder()
    if cache is None or builds is None:
        raise OutputError("cache", "no home", "a home", "set HOME, or XDG_CACHE_HOME to a folder")
    architectures = options.list_architectures()
    parts = [f"{platform.system()}-{platform.machine()}", "tensorrt" if options.tensorrt else "operators"]
    name = "-".join([*parts, *(["cuda", *architectures.split(";")] if architectures else ["cpu"])]).lower()
    return _Plan(
        sources=sources,
        sources_sha256=hash_sources(sources),
        architectures=architectures,
        tensorrt=options.tensorrt,
        folder=builds / name,
        log=cache / "build-library.log",
    )


def _read_intact(folder: Path) -> BuildRecord | None:
    """The record of a build that is whole and as it was built; None without one."""
    if not is_ours(folder):
        return None
    try:
        record = read_record(folder)
        for name, file in record.files.items():
            check_built_file(folder / name, file)
    except RuntimeUnavailableError:
        return None
    return record


def _make_own_folder(builds: Path) -> None:
    """`builds` and its parent, with the rights that `is_ours` asks for whatever the umask."""
    for folder in (builds.parent, builds):
        try:
            folder.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
        except OSError as error:
            fix = "set XDG_CACHE_HOME to a folder that is yours"
            raise OutputError(folder, f"'{reason_of(error)}'", "a writable place", fix) from error
        if not is_ours(folder):
            fix = f"`chmod go-w {folder}` if it is yours, or set XDG_CACHE_HOME to a folder that is"
            raise OutputError(folder, "a folder that others may write to", "one of this user only", fix)


def _compile(plan: _Plan, toolchain: Toolchain, work: Path, log: Log) -> Path:
    """Configure, build and install; the folder with the libraries."""
    build, install = work / "build", work / "install"
    defined = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_MAKE_PROGRAM": toolchain.ninja,
        "REFORMER_BUILD_TESTS": "OFF",
        "REFORMER_VERSION": __version__,
        "REFORMER_BUILD_CUDA": "ON" if plan.architectures else "OFF",
        "REFORMER_BUILD_TENSORRT": "ON" if plan.tensorrt else "OFF",
        **({"REFORMER_CUDA_ARCHITECTURES": plan.architectures} if plan.architectures else {}),
        **({"CMAKE_CUDA_COMPILER": str(toolchain.nvcc)} if toolchain.nvcc else {}),
        **({"REFORMER_CUDA_TOOLCHAIN": str(toolchain.cuda)} if toolchain.cuda else {}),
        **_packaged_headers(),
    }
    flags = [f"-D{name}={value}" for name, value in defined.items()]
    log.say("Configuring; headers that are missing are fetched, as the log says")
    log.run(toolchain.cmake, "-S", str(plan.sources), "-B", str(build), "-G", "Ninja", *flags)
    log.say(f"Compiling{f' for GPUs of {plan.architectures}' if plan.architectures else ''}")
    log.run(toolchain.cmake, "--build", str(build), "--target", "reformer_libraries")
    place = ("--strip", "--prefix", str(install))
    log.run(toolchain.cmake, "--install", str(build), *place, environment={"DESTDIR": ""})
    return install


def _packaged_headers() -> dict[str, str]:
    """Those that a wheel carries: what its own libraries were built with."""
    headers = INSTALLED / "include"
    roots = {"HIGHWAY_ROOT": "hwy/highway.h", "ONNXRUNTIME_ROOT": "onnxruntime_cxx_api.h"}
    return {root: str(INSTALLED) for root, header in roots.items() if (headers / header).is_file()}


def _keep(plan: _Plan, install: Path, seconds: float) -> BuildRecord:
    """Check what was built, then put it in its place with its record, whole or not at all."""
    libraries = [install / _OPERATORS]
    described = describe_library(libraries[0])
    if plan.tensorrt:
        libraries.append(install / _PLUGINS)
        describe_tensorrt_library(libraries[1])
    record = BuildRecord(
        record_version=RECORD_VERSION,
        version=__version__,
        sources_sha256=plan.sources_sha256,
        platform=f"{platform.system()} {platform.machine()}",
        architectures=described.architectures,
        tensorrt=plan.tensorrt,
        built=time.time(),
        seconds=round(seconds, 1),
        files={path.name: BuiltFile(sha256_of_file(path), path.stat().st_size) for path in libraries},
    )
    with new_folder(plan.folder, overwrite=True, reason_to_keep=lambda _folder: None) as partial:
        partial.chmod(_OWNER_ONLY)
        for path in libraries:
            (partial / path.name).write_bytes(path.read_bytes())
        (partial / RECORD_NAME).write_text(json_text(dataclasses.asdict(record)), encoding="utf-8")
    return record
