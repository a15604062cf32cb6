"""Engines of the real TensorRT-RTX, built without a GPU, up to where running one needs it."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from reformer_export.engine import EngineOptions, build_engine
from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu
from reformer_export.libraries.tensorrt import find_tensorrt_library
from reformer_export.runtimes import RuntimeOptions
from reformer_export.runtimes.tensorrt.machine import Machine
from reformer_export.runtimes.tensorrt.packages import import_tensorrt
from reformer_export.runtimes.tensorrt.runtime import TensorRTRuntime
from tests.engine.real import require_tensorrt_rtx
from tests.export.test_export import export
from tests.hf_models import config_t, save_model
from tests.runtimes.tensorrt.fake_cuda import FakeCuda
from tests.runtimes.tensorrt.installed import require_no_driver

pytestmark = pytest.mark.tensorrt

ADA = Gpu("NVIDIA GeForce RTX 4090", ComputeCapability(8, 9), 24 * 2**30)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model with engines for compute capability 8.9."""
    require_tensorrt_rtx()
    require_no_driver()
    folder = tmp_path_factory.mktemp("built")
    export(save_model(folder, config_t(), transformers.ReformerModel), folder / "out")
    for name in ("plain", "embedded"):
        options = EngineOptions(
            "tensorrt-rtx", name, compute_capabilities=("8.9",), embed_plugin=name == "embedded"
        )
        build_engine(folder / "out", options)
    return folder / "out"


def make_machine(**values: object) -> Machine:
    version = str(import_tensorrt("tensorrt-rtx").__version__)
    return Machine(**{"runtime_version": version, "gpu": ADA, "library": find_tensorrt_library(), **values})


@pytest.mark.parametrize("name", ["plain", "embedded"])
def test_an_engine_passes_the_checks_and_reaches_tensorrt(out: Path, name: str) -> None:
    """On a machine that is said to have the GPU, all agrees; TensorRT itself then misses the driver."""
    cuda = FakeCuda()
    options = RuntimeOptions("tensorrt-rtx", engine=name, allow_engine_code=name == "embedded")
    with pytest.raises(
        RuntimeUnavailableError, match=rf"engine {name}: TensorRT-RTX \S+ refuses it: .*driver"
    ):
        TensorRTRuntime(out, options, machine=make_machine(), cuda=cuda)
    assert cuda.streams == {}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"runtime_version": "1.6.0.1"}, r"got TensorRT-RTX 1\.6\.0\.1, expected 1\.7"),
        ({"gpu": Gpu("RTX 3090", ComputeCapability(8, 6), 2**34)}, r"got a GPU of compute capability 8\.6"),
    ],
)
def test_a_machine_that_does_not_fit(out: Path, values: dict[str, object], message: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=message):
        TensorRTRuntime(
            out,
            RuntimeOptions("tensorrt-rtx", engine="plain"),
            machine=make_machine(**values),
            cuda=FakeCuda(),
        )
