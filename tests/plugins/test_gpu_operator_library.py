"""The operator library built with the CUDA kernels, as a file; tests/gpu calls what is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.libraries.operators import LIBRARY_VARIABLE, find_native_library
from tests.plugins.elf import find_foreign_libraries, list_exports
from tests.required import skip_unless_required

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "build/cuda/adapters/onnxruntime" / "libreformer_onnxruntime.so"


@pytest.fixture(scope="module")
def library() -> Path:
    if not BUILT.exists():
        skip_unless_required(f"no {BUILT.relative_to(ROOT)}: make gpu-libraries")
    return BUILT


def test_needs_no_cuda_to_load(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_foreign_libraries(library) == []
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    found = find_native_library("on")
    assert found is not None
    assert found.path == library
    assert found.cuda_architectures


def test_exports_the_interface_only(library: Path) -> None:
    exports = list_exports(library)
    assert "RegisterCustomOps" in exports
    for operator in ("lsh_buckets", "lsh_attention", "local_attention"):
        assert {f"reformer_cuda_{operator}", f"reformer_cuda_{operator}_workspace"} <= set(exports)
    assert [name for name in exports if not name.startswith(("RegisterCustomOps", "reformer_"))] == []
