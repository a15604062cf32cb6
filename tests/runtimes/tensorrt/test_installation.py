"""What is installed: packages, versions, GPU and library, found with stand-ins for the packages."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from reformer_export.errors import MissingDependencyError, RuntimeUnavailableError
from reformer_export.libraries import gpus
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu
from reformer_export.libraries.installed import ABI_VERSION
from reformer_export.libraries.tensorrt import LIBRARY_VARIABLE, find_tensorrt_library
from reformer_export.runtimes import load
from reformer_export.runtimes.tensorrt.machine import describe_installation, examine_gpu_machine
from reformer_export.runtimes.tensorrt.packages import (
    check_tensorrt_version,
    import_cuda,
    import_tensorrt,
    installed_version,
    version_numbers,
)

HOPPER = Gpu("A GPU", ComputeCapability(9, 0), 80 * 2**30)


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


def test_the_version_that_is_installed() -> None:
    assert installed_version("pytest", ("no-such-distribution", "pytest")) == pytest.__version__
    assert installed_version("pytest", ("no-such-distribution",)) == "unknown version"
    assert installed_version("no_such_module", ("pytest",)) is None


def test_no_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError, match=r"cuda-bindings: got .*reformer-export\[tensorrt\]"):
        import_cuda()


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
    assert found.missing_to_build == ("tensorrt or tensorrt_rtx", "the TensorRT plugins")


def test_the_installation_where_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "tensorrt_rtx" else None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"tensorrt-rtx-cu13": "1.7.1.116"}[name])
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", types.ModuleType("cuda.bindings.runtime"))
    monkeypatch.setattr(gpus, "find_gpus", lambda: (HOPPER, HOPPER))
    found = describe_installation()
    assert dict(found.runtimes)["tensorrt-rtx"] == "1.7.1.116"
    assert found.plugin_library == f"0.1.0 (ABI {ABI_VERSION}, sm_80, sm_86, sm_89, sm_90, sm_120)"
    assert found.gpu == "A GPU (compute capability 9.0, 80.0 GiB)"
    assert found.can_run == ("tensorrt-rtx",)
    assert found.missing_to_build == ()
    monkeypatch.setattr(gpus, "find_gpus", refuse)
    found = describe_installation()
    assert found.can_run == ()
    assert found.gpu == "got no driver at all, expected a GPU; buy one"
    assert found.missing_to_build == ()  # TensorRT-RTX builds without a GPU
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "tensorrt" else None)
    monkeypatch.setattr("importlib.metadata.version", lambda name: {"tensorrt": "10.9.0"}[name])
    assert describe_installation().missing_to_build == ("a GPU",)
    monkeypatch.setattr(gpus, "find_gpus", lambda: (HOPPER,))
    assert describe_installation().missing_to_build == ()


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_the_plugins_are_for_linux(monkeypatch: pytest.MonkeyPatch, library: Path, system: str) -> None:
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(
        RuntimeUnavailableError, match=f"library: got {system}, expected Linux.*; use a Linux"
    ):
        find_tensorrt_library()
    assert describe_installation().missing_to_build[-1] == "the TensorRT plugins"


def refuse() -> Any:
    raise RuntimeUnavailableError("GPU", "no driver at all", "a GPU", "buy one")


def test_the_facts_come_out_as_they_are(monkeypatch: pytest.MonkeyPatch, library: Path) -> None:
    trt = types.ModuleType("tensorrt")
    trt.__version__ = "10.9.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", types.ModuleType("cuda.bindings.runtime"))
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    monkeypatch.setattr(gpus, "find_gpus", lambda: (HOPPER,))
    machine = examine_gpu_machine("tensorrt")
    assert (machine.runtime_version, machine.gpu) == ("10.9.0", HOPPER)
    assert machine.library is not None
    assert machine.library.path == library
    assert import_tensorrt("tensorrt") is trt
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library.parent / "none.so"))
    monkeypatch.setattr(gpus, "find_gpus", refuse)
    machine = examine_gpu_machine("tensorrt")
    assert (machine.gpu, machine.library) == (None, None)
    assert machine.gpu_problem == (
        "GPU: got no driver at all, expected a GPU, which an engine needs; "
        'use a machine with one, or `runtime="onnxruntime"`'
    )
    assert "none.so" in machine.library_problem
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(MissingDependencyError, match="cuda-bindings"):
        examine_gpu_machine("tensorrt")
