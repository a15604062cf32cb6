"""What the CUDA provider needs: a stand-in for onnxruntime-gpu, and the package where it is installed."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reformer_export.libraries.gpus import DRIVER
from reformer_export.runtimes.cuda_provider import (
    PROVIDER_NAME,
    describe_missing,
    find_missing_libraries,
    preload_cuda_libraries,
)

BRINGS = "pip install 'reformer-export[gpu]' brings CUDA's libraries"


@pytest.fixture
def gpu_package(tmp_path: Path) -> Any:
    """A module as onnxruntime-gpu's, whose provider needs two libraries that no machine has."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    capi = tmp_path / "onnxruntime" / "capi"
    capi.mkdir(parents=True)
    source = tmp_path / "empty.c"
    source.write_text("int reformer_empty;")
    build = [compiler, "-shared", "-fPIC", "-Wl,--no-as-needed", str(source)]
    missing = [tmp_path / f"lib{name}.so" for name in ("nosuchlt", "nosuch")]
    for path in missing:
        subprocess.run([*build, f"-Wl,-soname,{path.name}.13", "-o", path], check=True)
    subprocess.run([*build, "-o", capi / PROVIDER_NAME, *missing, "-lm"], check=True)
    return SimpleNamespace(__file__=str(capi.parent / "__init__.py"))


def test_what_is_missing_is_named(gpu_package: Any) -> None:
    assert find_missing_libraries(gpu_package) == ("libnosuchlt.so.13", "libnosuch.so.13")


def test_a_package_without_the_provider_lacks_nothing(tmp_path: Path) -> None:
    assert find_missing_libraries(SimpleNamespace(__file__=str(tmp_path / "__init__.py"))) == ()


def test_the_packages_libraries_are_loaded_first_and_silently(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []
    module = SimpleNamespace(preload_dlls=lambda: calls.append(print("Failed to load libcudnn.so.9")))
    preload_cuda_libraries(module)
    assert (len(calls), capsys.readouterr().out) == (1, "")
    preload_cuda_libraries(SimpleNamespace())  # older than 1.21


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ((), ""),
        ((DRIVER,), f"no NVIDIA driver ({DRIVER})"),
        (
            ("libcublas.so.13", "libcudart.so.13"),
            f"no libcublas.so.13, no libcudart.so.13 ({BRINGS})",
        ),
        (
            (DRIVER, "libcublas.so.13"),
            f"no NVIDIA driver ({DRIVER}) and no libcublas.so.13 ({BRINGS})",
        ),
    ],
)
def test_in_words(missing: tuple[str, ...], words: str) -> None:
    assert describe_missing(missing) == words


def test_the_gpu_extra_brings_all_but_the_driver() -> None:
    """pip install 'reformer-export[gpu]': only NVIDIA's driver may be missing then."""
    import onnxruntime

    try:
        importlib.metadata.version("onnxruntime-gpu")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("onnxruntime-gpu is not installed: pip install 'reformer-export[gpu]'")
    assert set(find_missing_libraries(onnxruntime)) <= {DRIVER}
