"""The real TensorRT-RTX, as far as it goes without a GPU."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries.tensorrt import find_tensorrt_library
from reformer_export.runtimes import load
from reformer_export.runtimes.tensorrt.engine import FLOAT_TYPES, INTEGER_TYPES, OpenedEngine
from reformer_export.runtimes.tensorrt.log import open_log
from reformer_export.runtimes.tensorrt.machine import Machine, describe_installation, examine_gpu_machine
from reformer_export.runtimes.tensorrt.packages import import_tensorrt
from tests.engine.real import require_tensorrt_rtx
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt import fake_tensorrt
from tests.runtimes.tensorrt.engines import open_fake, write_engine, write_library
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.installed import require_cuda_bindings, require_no_driver

pytestmark = pytest.mark.tensorrt

REAL_NAMES = {
    "Runtime": "Runtime",
    "Engine": "ICudaEngine",
    "Context": "IExecutionContext",
    "RuntimeConfig": "IRuntimeConfig",
    "PluginRegistry": "IPluginRegistry",
    "Refitter": "Refitter",
    "OnnxParserRefitter": "OnnxParserRefitter",
    "ILogger": "ILogger",
}
INTERNAL = {
    "file",
    "has_weights",
    "session",
    "strategy",
    "profile_stream",
    "loaded",
    "creators",
    "engine",
    "given",
}


@pytest.fixture(scope="module", autouse=True)
def trt() -> Any:
    require_tensorrt_rtx()
    require_cuda_bindings()
    return import_tensorrt("tensorrt-rtx")


@pytest.fixture
def no_gpu() -> None:
    require_no_driver()


@pytest.mark.parametrize("fake", REAL_NAMES)
def test_the_fake_has_only_what_the_real_one_has(trt: Any, fake: str) -> None:
    """Else the tests on the fake would pass with calls that do not exist."""
    real = getattr(trt, REAL_NAMES[fake])
    names = {name for name in vars(getattr(fake_tensorrt, fake)) if not name.startswith("_")}
    assert {name for name in names if not hasattr(real, name)} - INTERNAL == set()


@pytest.mark.parametrize(
    "enum",
    [
        "DataType",
        "TensorIOMode",
        "TensorLocation",
        "ExecutionContextAllocationStrategy",
        "CudaGraphStrategy",
    ],
)
def test_the_fake_s_values_are_the_real_ones(trt: Any, enum: str) -> None:
    members = getattr(fake_tensorrt, enum).__members__
    real = getattr(trt, enum).__members__
    assert {name: member.value for name, member in members.items()} == {
        name: int(real[name]) for name in members
    }


def test_the_fake_s_parameters_have_the_real_names(trt: Any) -> None:
    """As far as pybind writes signatures down: the first line of a function's docstring."""
    checked = 0
    for fake, real in REAL_NAMES.items():
        for name, function in inspect.getmembers(getattr(fake_tensorrt, fake), inspect.isfunction):
            doc = inspect.getdoc(getattr(getattr(trt, real), name, None)) or ""
            if name.startswith("_") or not doc.startswith(f"{name}(self"):
                continue
            parameters = [p for p in inspect.signature(function).parameters if p != "self"]
            for parameter in parameters:
                assert f"{parameter}:" in doc.splitlines()[0], (fake, name)
            checked += 1
    assert checked > 15


def test_errors_of_tensorrt_are_kept(trt: Any) -> None:
    store = open_log(trt).store
    assert open_log(trt) is open_log(trt)
    mark = store.mark()
    assert trt.Runtime(open_log(trt)).deserialize_cuda_engine(b"not an engine" * 10) is None
    assert "magic" in store.errors_since(mark)
    assert store.errors_since(store.mark()) == "no reason in its log"


def test_the_plugins_are_registered_once_and_a_bad_engine_is_refused(tmp_path: Path, trt: Any) -> None:
    """The real registry takes the real library, a second time too; the engine's bytes are no engine."""
    library = find_tensorrt_library()
    out = write_artifact(tmp_path / "out")
    record = write_engine(
        out,
        library.path,
        runtime="tensorrt-rtx",
        plugin_layers={"LSHBuckets": 1, "LSHAttention": 1, "LocalAttention": 1},
    )
    for _ in range(2):
        with pytest.raises(RuntimeUnavailableError, match=r"TensorRT-RTX 1\.\S+ refuses it: got '.*magic"):
            OpenedEngine(trt, record, b"not an engine" * 10, library.path)
    assert trt.get_plugin_registry().get_creator("LSHAttention", "1", "reformer") is not None


def test_a_library_without_the_plugins_is_refused(tmp_path: Path) -> None:
    """In a process of its own: the registry of this one has the plugins already."""
    fake = write_library(tmp_path)
    out = write_artifact(tmp_path / "out")
    write_engine(out, fake, runtime="tensorrt-rtx")
    code = f"""
from pathlib import Path
from reformer_export.artifact.engine_record import read_engine_record
from reformer_export.runtimes.tensorrt.engine import OpenedEngine
from reformer_export.runtimes.tensorrt.packages import import_tensorrt
record = read_engine_record(Path({str(out)!r}), "fake")
OpenedEngine(import_tensorrt("tensorrt-rtx"), record, b"x" * 100, Path({str(fake)!r}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "got no plugin LSHAttention, LSHBuckets after loading it (IPluginRegistry::loadLibrary" in last


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_loading_says_so(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    write_engine(out, find_tensorrt_library().path, runtime="tensorrt-rtx", runtime_version=_version())
    with pytest.raises(RuntimeUnavailableError) as caught:
        load(out, runtime="tensorrt-rtx")
    assert str(caught.value) == (
        "GPU: got no NVIDIA driver, expected an NVIDIA GPU and its driver, which an engine needs; "
        'use a machine with one, or `runtime="onnxruntime"`'
    )


@pytest.mark.usefixtures("no_gpu")
def test_the_machine_s_facts() -> None:
    facts = examine_gpu_machine("tensorrt-rtx")
    assert facts == Machine(_version(), None, find_tensorrt_library(), facts.gpu_problem)
    found = describe_installation()
    assert dict(found.runtimes)["tensorrt-rtx"] == _version()
    assert found.can_run == ()
    assert found.gpu.startswith("got no NVIDIA driver, expected an NVIDIA GPU and its driver; use a machine")


def test_tensorrt_s_fake_stands_in_for_all_that_the_runtime_calls(tmp_path: Path) -> None:
    """What the runtime asked the fake for, the real module has."""
    library = write_library(tmp_path)
    out = write_artifact(tmp_path / "out")
    write_engine(out, library, runtime="tensorrt-rtx")
    module = fake_tensorrt.FakeTensorRT(FakeCuda(), rtx=True)
    asked: set[str] = set()

    class Watched:
        def __getattr__(self, name: str) -> Any:
            asked.add(name)
            return getattr(module, name)

    with open_fake(
        out, library, runtime="tensorrt-rtx", trt=Watched(), cuda=module.cuda, cuda_graphs=True
    ) as model:
        model.run([[5]])
    real = import_tensorrt("tensorrt-rtx")
    assert len(asked) >= 8
    for kind in (*INTEGER_TYPES.values(), *FLOAT_TYPES):
        assert getattr(real.DataType, kind).name == kind
    assert {name for name in asked if not hasattr(real, name)} == set()


def _version() -> str:
    return str(import_tensorrt("tensorrt-rtx").__version__)
