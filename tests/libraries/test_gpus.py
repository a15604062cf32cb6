"""The GPUs that a driver names: a stand-in for it, and whatever this machine has."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries import gpus
from reformer_export.libraries.architectures import ComputeCapability
from reformer_export.libraries.gpus import Gpu, find_gpus
from tests.required import skip_unless_required

DRIVER = Path(__file__).with_name("fake_driver.c")


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of two GPUs that stands in for the driver; its environment variables make it fail."""
    compiler = shutil.which("cc")
    if compiler is None:
        skip_unless_required("needs a C compiler")
    library = tmp_path / "libcuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, DRIVER], check=True)
    monkeypatch.setattr(gpus, "DRIVER", str(library))
    return library


def refusal() -> str:
    with pytest.raises(RuntimeUnavailableError, match="expected an NVIDIA GPU and its driver") as caught:
        find_gpus()
    return caught.value.got


@pytest.mark.usefixtures("driver")
def test_what_the_driver_says_is_read() -> None:
    first, second = find_gpus()
    assert first == Gpu("Fake 0", ComputeCapability(12, 1), 5 * 2**32, "13.1")
    assert second == Gpu("Fake 1", ComputeCapability(8, 9), 6 * 2**32, "13.1")
    assert str(first) == "Fake 0 (compute capability 12.1, 20.0 GiB)"


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    "function",
    [
        *("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName"),
        *("cuDeviceTotalMem_v2", "cuDeviceGetAttribute"),
    ],
)
def test_every_status_is_looked_at(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    monkeypatch.setenv("FAKE_DRIVER_FAILS", function)
    assert refusal() == f"'CUDA_ERROR_UNLUCKY' from the driver's {function}"


@pytest.mark.usefixtures("driver")
def test_a_driver_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "0")
    assert refusal() == "a driver and no GPU"


def test_a_driver_that_lacks_a_function(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, library = driver.with_name("old.c"), driver.with_name("old.so")
    source.write_text("int cuInit(unsigned flags) { return 0; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    monkeypatch.setattr(gpus, "DRIVER", str(library))
    assert "undefined symbol: cuDriverGetVersion" in refusal()


@pytest.mark.parametrize("content", [None, b"no library"])
def test_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "libcuda.so").write_bytes(content)
    monkeypatch.setattr(gpus, "DRIVER", str(tmp_path / "libcuda.so"))
    assert refusal() == "no NVIDIA driver"


@pytest.mark.gpu
def test_this_machine_s_gpus() -> None:
    for gpu in find_gpus():
        assert gpu.name
        assert gpu.memory_bytes > 2**28
        assert float(gpu.cuda_version) >= 11
        assert gpu.compute_capability >= ComputeCapability(7, 5)


def test_importing_asks_nothing() -> None:
    code = (
        "import ctypes; ctypes.CDLL = None; from reformer_export.libraries import gpus, operators, tensorrt"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
