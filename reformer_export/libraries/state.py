"""The native libraries of this machine in words, and which of their code runs here: for `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reformer_export.errors import ReformerExportError
from reformer_export.libraries import operators, tensorrt
from reformer_export.libraries.architectures import LEAST_COMPUTE_CAPABILITY, code_for
from reformer_export.libraries.compiler import how_to_build
from reformer_export.libraries.gpus import Gpu
from reformer_export.libraries.installed import describe_origin
from reformer_export.libraries.operators import NativeLibrary, find_native_library
from reformer_export.libraries.tensorrt import find_tensorrt_library

_NO_GPU = "no NVIDIA GPU here"


@dataclass(frozen=True)
class LibraryState:
    """One kind of native code: what was `found`, or how to get it, and what of it `runs` on this machine."""

    name: str
    found: str
    runs: str


def describe_libraries(gpus: Sequence[Gpu]) -> tuple[LibraryState, ...]:
    """The CPU kernels, the CUDA kernels and the TensorRT plugins, on a machine with `gpus`."""
    return (*_describe_operators(gpus), _describe_plugins(gpus))


def _describe_operators(gpus: Sequence[Gpu]) -> tuple[LibraryState, LibraryState]:
    try:
        library = find_native_library("auto")
        problem, instead = f"missing: {how_to_build()}", "generic operators run instead"
    except ReformerExportError as error:
        library, problem, instead = None, f"unusable: {error}", 'generic operators, with `native="off"`'
    if library is None:
        cpu = LibraryState("CPU kernels", problem, instead)
        missing = f"missing: {how_to_build('--cuda')}" if gpus else "missing"
        return cpu, LibraryState("CUDA kernels", missing, "" if gpus else _NO_GPU)
    origin = describe_origin(library.path, operators.LIBRARY_VARIABLE)
    found = f"{library.version} (ABI {library.abi_version}), {origin}"
    cpu = LibraryState("CPU kernels", found, f"yes, with {library.cpu_instructions}")
    return cpu, _describe_cuda(library, found, gpus)


def _describe_cuda(library: NativeLibrary, found: str, gpus: Sequence[Gpu]) -> LibraryState:
    name, built = "CUDA kernels", library.architectures
    if built:
        return LibraryState(name, f"{found}, for {_list(built)}", _runs(built, gpus, "--cuda"))
    if gpus:
        return LibraryState(name, f"not in the library: {how_to_build('--cuda')}", "")
    return LibraryState(name, "not in the library", _NO_GPU)


def _describe_plugins(gpus: Sequence[Gpu]) -> LibraryState:
    name = "TensorRT plugins"
    try:
        library = find_tensorrt_library()
    except ReformerExportError as error:
        return LibraryState(name, f"missing: {error.fix}" if error.got.startswith("no ") else str(error), "")
    built = library.cuda_architectures
    origin = describe_origin(library.path, tensorrt.LIBRARY_VARIABLE)
    found = f"{library.version} (ABI {library.abi_version}), {origin}, for {_list(built)}"
    return LibraryState(name, found, _runs(built, gpus, "--tensorrt"))


def _list(architectures: Sequence[int]) -> str:
    return ", ".join(f"sm_{number}" for number in architectures)


def _runs(architectures: Sequence[int], gpus: Sequence[Gpu], option: str) -> str:
    """What the GPUs run of code for `architectures`, each kind once; `option` builds it for others."""
    return "; ".join(dict.fromkeys(_runs_on(architectures, gpu, option) for gpu in gpus)) or _NO_GPU


def _runs_on(architectures: Sequence[int], gpu: Gpu, option: str) -> str:
    code = code_for(architectures, gpu.compute_capability)
    if code is not None:
        how = "yes" if code == "machine code" else "yes, once its driver has compiled the PTX,"
        return f"{how} on {gpu.name}"
    if gpu.compute_capability < LEAST_COMPUTE_CAPABILITY:
        return f"no: {gpu.name} is older than compute capability {LEAST_COMPUTE_CAPABILITY}"
    return f"no code for {gpu.name}: {how_to_build(option)}"
