"""What is installed: packages, versions, GPU and library, found with stand-ins for the packages."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from reformer_export.artifact.engine_record import EngineFlags
from reformer_export.errors import (
    InputError,
    MissingDependencyError,
)
from reformer_export.libraries.tensorrt import LIBRARY_VARIABLE
from reformer_export.runtimes import load
from reformer_export.runtimes.tensorrt.machine import Gpu
from reformer_export.runtimes.tensorrt.packages import (
    check_tensorrt_version,
    import_cuda,
    import_tensorrt,
    version_numbers,
)
from reformer_export.runtimes.tensorrt.preflight import (
    describe_installation,
    examine_machine,
)
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import write_library

COMPATIBLE = EngineFlags(version_compatible=True, hardware_compatible=True)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return write_library(tmp_path)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return write_artifact(tmp_path / "out")


@pytest.mark.parametrize(
    ("runtime", "module", "extra"),
    [("tensorrt", "tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx", "rtx")],
)
def test_no_tensorrt(
    out: Path, monkeypatch: pytest.MonkeyPatch, runtime: Any, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf"{module}: got .*reformer-export\[{extra}\]"):
        load(out, runtime=runtime)


@pytest.mark.parametrize(("runtime", "version"), [("tensorrt", "10.6.1"), ("tensorrt-rtx", "1.1.9")])
def test_tensorrt_too_old(out: Path, monkeypatch: pytest.MonkeyPatch, runtime: Any, version: str) -> None:
    name = runtime.replace("-", "_")
    module = types.ModuleType(name)
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(MissingDependencyError, match=rf"got version {version}, expected \d+\.\d or newer"):
        load(out, runtime=runtime)


def test_versions() -> None:
    assert version_numbers("10.7.0.post1") == (10, 7, 0)
    assert version_numbers("nonsense") == ()
    check_tensorrt_version("tensorrt", "10.7")
    check_tensorrt_version("tensorrt", "11.1.0.106")
    check_tensorrt_version("tensorrt-rtx", "1.2.0.54")
    with pytest.raises(MissingDependencyError):
        check_tensorrt_version("tensorrt", "9.9")


def test_no_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError, match=r"cuda-bindings: got .*reformer-export\[tensorrt\]"):
        import_cuda()


@pytest.mark.parametrize(
    "options",
    [{"provider": "cpu"}, {"threads": 2}, {"native": "off"}, {"runtime": "tensorrt-rtx", "threads": 1}],
)
def test_options_of_another_runtime_are_refused(out: Path, options: dict[str, Any]) -> None:
    (name,) = options.keys() - {"runtime"}
    with pytest.raises(InputError, match=f"{name}: got one that tensorrt"):
        load(out, **{"runtime": "tensorrt", **options})


@pytest.mark.parametrize("options", [{"engine": "fake"}, {"cuda_graphs": True}])
def test_engine_options_are_tensorrt_s(out: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="got one that onnxruntime does not take"):
        load(out, **options)


def test_the_installation_in_words_when_there_is_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(tmp_path / "none.so"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = describe_installation()
    assert found.runtimes == (
        ("tensorrt", "missing: pip install 'reformer-export[tensorrt]'"),
        ("tensorrt-rtx", "missing: pip install 'reformer-export[rtx]'"),
    )
    assert "none.so" in found.plugin_library
    assert "cuda-bindings" in found.gpu
    assert found.can_run == ()


def test_the_installation_where_a_runtime_and_a_library_are_there(
    monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "tensorrt_rtx" else None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"tensorrt-rtx-cu13": "1.7.1.116"}[name])
    found = describe_installation()
    assert dict(found.runtimes)["tensorrt-rtx"] == "1.7.1.116"
    assert found.plugin_library == "0.1.0 (ABI 2, sm_80, sm_86, sm_89, sm_90, sm_120)"


def test_examining_a_machine_needs_tensorrt_and_asks_cuda(
    monkeypatch: pytest.MonkeyPatch, library: Path
) -> None:
    """With stand-ins for the two modules: the facts come out as they are."""
    trt = types.ModuleType("tensorrt")
    trt.__version__ = "10.9.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCudart())
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    machine = examine_machine("tensorrt")
    assert machine.runtime_version == "10.9.0"
    assert machine.gpu == Gpu("A GPU", "9.0", 80 * 2**30)
    assert machine.library is not None
    assert machine.library.path == library
    assert import_tensorrt("tensorrt") is trt
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCudart(driver=0))
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library.parent / "none.so"))
    machine = examine_machine("tensorrt")
    assert (machine.gpu, machine.library) == (None, None)
    assert "got no NVIDIA driver, expected an NVIDIA GPU" in machine.gpu_problem
    assert "none.so" in machine.library_problem
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCudart(error=100))
    assert "got 'text 100' (name 100)" in examine_machine("tensorrt").gpu_problem


class FakeCudart(types.ModuleType):
    """Four functions of cuda.bindings.runtime."""

    def __init__(self, driver: int = 13000, error: int = 0) -> None:
        super().__init__("cuda.bindings.runtime")
        properties = types.SimpleNamespace(name=b"A GPU", major=9, minor=0, totalGlobalMem=80 * 2**30)

        def cudaDriverGetVersion() -> tuple[int, int]:  # noqa: N802
            return 0, driver

        def cudaGetDeviceProperties(device: int) -> tuple[int, Any]:  # noqa: N802
            return error, None if error else properties

        self.cudaError_t = types.SimpleNamespace(cudaSuccess=0)
        self.cudaDriverGetVersion = cudaDriverGetVersion
        self.cudaGetDeviceProperties = cudaGetDeviceProperties
        self.cudaGetErrorString = lambda code: (0, f"text {code}".encode())
        self.cudaGetErrorName = lambda code: (0, f"name {code}".encode())
