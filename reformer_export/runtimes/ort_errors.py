"""What ONNX Runtime's errors mean, in one line each.

The words looked for are those of its sources (core/providers/cuda/cuda_call.cc, core/framework/bfc_arena.cc,
core/session/provider_bridge_ort.cc, python/onnxruntime_pybind_state.cc) and of CUDA's error table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reformer_export.contract import IDS_INPUT
from reformer_export.errors import (
    ArtifactError,
    InputError,
    ReformerExportError,
    RuntimeUnavailableError,
    one_line,
)


class ProviderError(RuntimeUnavailableError):
    """CUDA does not work on this machine, whatever the model; `reason` says why in a few words."""

    def __init__(self, reason: str, expected: str, fix: str) -> None:
        super().__init__("provider", f"cuda, but {reason}", expected, f'{fix}, or use `provider="cpu"`')
        self.reason = reason


@dataclass(frozen=True)
class _Failure:
    """`words`: a regular expression, of which the group that matched is put into `got`; the rest: an error's
    parts."""

    words: str
    got: str
    expected: str
    fix: str


_DRIVER: Final = "an NVIDIA GPU and a driver that fits the installed CUDA libraries"
_LIBRARIES: Final = "CUDA's and cuDNN's libraries of the version that this ONNX Runtime was built for"
_GET_LIBRARIES: Final = "pip install 'reformer-export[gpu]'"
_FAILURES: Final = (
    _Failure(
        r"CUDA failure 35\b|driver version is insufficient",
        "no NVIDIA driver, or one that is older than the installed CUDA libraries",
        _DRIVER,
        "install NVIDIA's newest driver, or an onnxruntime-gpu of the driver's CUDA version",
    ),
    _Failure(
        r"CUDA failure 100\b|no CUDA-capable device",
        "a driver and no GPU",
        _DRIVER,
        "use a machine with one, or look at CUDA_VISIBLE_DEVICES",
    ),
    _Failure(
        r"onnxruntime_providers_\S+ with error: (\S+): cannot open shared object file",
        "no {}",
        _LIBRARIES,
        _GET_LIBRARIES,
    ),
    _Failure(
        r"CUDA wasnt able to be loaded",
        "CUDA's libraries, which cannot be loaded (CUDA_PATH is set)",
        _LIBRARIES,
        f"{_GET_LIBRARIES}, or unset CUDA_PATH",
    ),
    _Failure(
        r"((?:CUDNN|CUBLAS)_STATUS_(?:NOT_INITIALIZED|\w*LOADING_FAILED|\w*VERSION_MISMATCH|ARCH_MISMATCH))",
        "{} from one of CUDA's libraries",
        _LIBRARIES,
        _GET_LIBRARIES,
    ),
    _Failure(
        r"NoKernelImageForDevice|no kernel image|unsupported toolchain",
        "no code for this GPU in ONNX Runtime's CUDA provider or in a library that it uses",
        "a GPU that they were built for",
        "install another onnxruntime-gpu: older ones know older GPUs, newer ones newer",
    ),
    _Failure(
        r"(CU\w+ failure \d+: [^;]*?) ;|(CUDA error \w+:[^;]*)",
        "'{}'",
        "CUDA to work",
        "see `reformer-export doctor`; after a failed launch, start the program again",
    ),
)
"""The first whose words are found says what is wrong."""

_WANT_OF_MEMORY: Final = re.compile(
    r"bad_alloc|allocate memory|is smaller than requested bytes|CUDA failure 2:|CUBLAS_STATUS_ALLOC_FAILED"
    r"|CUDNN_STATUS_ALLOC_FAILED|out of memory"
)
_OF_THE_GPU: Final = re.compile(r"CUDA|CUBLAS|CUDNN")


def error_from_open(model: Path | None, error: Exception) -> ReformerExportError:
    """Why a session could not be opened; `model` is None for a graph of our own."""
    what: Path | str = "a graph of reformer-export's" if model is None else model
    if is_want_of_memory(error):
        size = "" if model is None else f" for its {model.stat().st_size} bytes"
        place = "memory of the GPU" if _OF_THE_GPU.search(str(error)) else "memory"
        fix = "use a machine with more memory, or close what else is using it"
        return RuntimeUnavailableError(what, f"no {place}{size}", "enough to open it", fix)
    failure = find_provider_failure(error)
    if failure is not None:
        return failure
    expected, fix = "a model it can open", "export the checkpoint again, or install a newer ONNX Runtime"
    if "is not a registered function/op" in str(error):
        expected = "each custom node to have a function body in the file or a registered library"
        fix = "export the checkpoint again with reformer-export"
    return ArtifactError(f"{what}: ONNX Runtime refuses it", f"'{one_line(error)}'", expected, fix)


def error_from_run(
    error: Exception,
    shape: tuple[int, ...],
    device: str,
    graph: str = "model.onnx",
    name: str = IDS_INPUT,
    is_custom: bool = False,
) -> ReformerExportError:
    """Why a run of the file `graph` on `device` over the input `name` of `shape` failed. Of a custom module
    nobody knows which values it takes, and not all of the sizes: its inputs are then at fault."""
    if is_want_of_memory(error):
        owner = "the GPU's memory" if device == "cuda" else "memory"
        got = f"{list(shape[:2])} tokens, for which {owner} does not suffice"
        return InputError(name, got, "fewer", "use a smaller batch or shorter rows")
    failure = find_provider_failure(error)
    if failure is not None:
        return failure
    what = f"{graph}: ONNX Runtime failed on {name} of shape {list(shape)}"
    fix = "check the artifact with `reformer-export verify`"
    if is_custom:
        expected = "values and sizes that the module takes"
        return InputError(what, f"'{one_line(error)}'", expected, f"mend the inputs, or {fix}")
    return ArtifactError(what, f"'{one_line(error)}'", "a result", fix)


def find_provider_failure(error: Exception) -> ProviderError | None:
    """What is wrong with CUDA here, if that is what `error` says."""
    for failure in _FAILURES:
        found = re.search(failure.words, str(error))
        if found is not None:
            named = [group.strip() for group in found.groups() if group]
            return ProviderError(failure.got.format(*named), failure.expected, failure.fix)
    return None


def is_want_of_memory(error: Exception) -> bool:
    """Whether memory, of the host or of the GPU, did not suffice."""
    return isinstance(error, MemoryError) or _WANT_OF_MEMORY.search(str(error)) is not None
