"""What doctor says of the native libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries import compiler, state
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu
from reformer_export.libraries.installed import INSTALLED
from reformer_export.libraries.operators import NativeLibrary
from reformer_export.libraries.state import describe_libraries
from reformer_export.libraries.tensorrt import TensorRTLibrary

HOPPER = Gpu("NVIDIA H200", ComputeCapability(9, 0), 1)
BLACKWELL = Gpu("NVIDIA B200", ComputeCapability(10, 0), 1)
ADA = Gpu("NVIDIA L4", ComputeCapability(8, 9), 1)
VOLTA = Gpu("NVIDIA V100", ComputeCapability(7, 0), 1)
NO_CODE = "no code for NVIDIA L4: `reformer-export build-library {}` builds it"
PATH = INSTALLED.resolve() / "libreformer_onnxruntime.so"
CPU = NativeLibrary(PATH, "0.1.0", 2, "AVX3")
CUDA = NativeLibrary(PATH, "0.1.0", 2, "AVX3", "90")
PLUGINS = TensorRTLibrary(Path("/built/here/libreformer_tensorrt.so"), "0.1.0", 2, (90,))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """One with a C++ compiler and no library that is named."""
    monkeypatch.setattr(compiler, "find_cxx_compiler", lambda: "g++")
    for variable in ("REFORMER_EXPORT_LIBRARY", "REFORMER_EXPORT_TENSORRT_PLUGIN"):
        monkeypatch.delenv(variable, raising=False)
    return monkeypatch


def describe(
    monkeypatch: pytest.MonkeyPatch,
    operators: NativeLibrary | Exception | None,
    plugins: TensorRTLibrary | Exception,
    *gpus: Gpu,
) -> dict[str, tuple[str, str]]:
    def find(result: object) -> object:
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(state, "find_native_library", lambda _mode: find(operators))
    monkeypatch.setattr(state, "find_tensorrt_library", lambda: find(plugins))
    return {found.name: (found.found, found.runs) for found in describe_libraries(gpus)}


def no_plugins() -> RuntimeUnavailableError:
    return RuntimeUnavailableError("TensorRT plugin library", "no x.so", "it", "build it")


def test_all_there_without_a_gpu(machine: pytest.MonkeyPatch) -> None:
    assert describe(machine, CUDA, PLUGINS) == {
        "CPU kernels": ("0.1.0 (ABI 2), of the package", "yes, with AVX3"),
        "CUDA kernels": ("0.1.0 (ABI 2), of the package, for sm_90", "no NVIDIA GPU here"),
        "TensorRT plugins": ("0.1.0 (ABI 2), built here, in /built/here, for sm_90", "no NVIDIA GPU here"),
    }


@pytest.mark.parametrize(
    ("gpus", "runs"),
    [
        ((HOPPER, HOPPER), "yes on NVIDIA H200"),
        ((BLACKWELL,), "yes, once its driver has compiled the PTX, on NVIDIA B200"),
        ((ADA,), NO_CODE),
        ((HOPPER, ADA), f"yes on NVIDIA H200; {NO_CODE}"),
        (
            (HOPPER, BLACKWELL),
            "yes on NVIDIA H200; yes, once its driver has compiled the PTX, on NVIDIA B200",
        ),
    ],
)
def test_what_runs_on_which_gpu(machine: pytest.MonkeyPatch, gpus: tuple[Gpu, ...], runs: str) -> None:
    found = describe(machine, CUDA, PLUGINS, *gpus)
    assert found["CUDA kernels"][1] == runs.format("--cuda")
    assert found["TensorRT plugins"][1] == runs.format("--tensorrt")


def test_a_gpu_that_is_too_old_is_told_no_command(machine: pytest.MonkeyPatch) -> None:
    runs = describe(machine, CUDA, PLUGINS, VOLTA)["CUDA kernels"][1]
    assert runs.startswith("no: NVIDIA V100 is older than compute capability ")


def test_a_library_without_cuda(machine: pytest.MonkeyPatch) -> None:
    assert describe(machine, CPU, no_plugins())["CUDA kernels"] == (
        "not in the library",
        "no NVIDIA GPU here",
    )
    how = "not in the library: `reformer-export build-library --cuda` builds it"
    assert describe(machine, CPU, no_plugins(), HOPPER)["CUDA kernels"] == (how, "")


def test_nothing_built_and_a_compiler_there(machine: pytest.MonkeyPatch) -> None:
    """Case 23."""
    assert describe(machine, None, no_plugins(), HOPPER) == {
        "CPU kernels": (
            "missing: `reformer-export build-library` builds it",
            "generic operators run instead",
        ),
        "CUDA kernels": ("missing: `reformer-export build-library --cuda` builds it", ""),
        "TensorRT plugins": ("missing: build it", ""),
    }


def test_nothing_built_and_no_compiler(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(compiler, "find_cxx_compiler", lambda: None)
    found, _ = describe(machine, None, no_plugins())["CPU kernels"]
    assert found == (
        "missing: install a C++ compiler such as g++, then `reformer-export build-library` builds it"
    )


def test_what_does_not_fit_says_why(machine: pytest.MonkeyPatch) -> None:
    problem = RuntimeUnavailableError("native library x", "ABI version 1", 2, "take both from one release")
    found = describe(machine, problem, RuntimeUnavailableError("plugins", "ABI version 1", 2, "mend it"))
    assert found["CPU kernels"] == (f"unusable: {problem}", 'generic operators, with `native="off"`')
    assert found["TensorRT plugins"][0] == "plugins: got ABI version 1, expected 2; mend it"


def test_a_library_that_is_named(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("REFORMER_EXPORT_LIBRARY", "/some/library.so")
    found, _ = describe(machine, CPU, no_plugins())["CPU kernels"]
    assert found == "0.1.0 (ABI 2), named by $REFORMER_EXPORT_LIBRARY"
