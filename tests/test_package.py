"""The package's own face: nine functions and a version, imported when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import reformer_export


def test_every_public_name_is_there() -> None:
    assert len(reformer_export.__all__) == 11
    for name in reformer_export.__all__:
        assert getattr(reformer_export, name) is not None


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'exports'"):
        _ = reformer_export.exports  # type: ignore[attr-defined]


def test_completion_offers_the_public_names() -> None:
    code = "import reformer_export; print(dir(reformer_export) == sorted(reformer_export.__all__))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"


def test_importing_it_imports_no_torch() -> None:
    code = (
        "import sys, reformer_export\n"
        "reformer_export.load, reformer_export.build_engine, reformer_export.build_libraries\n"
        "reformer_export.export_checkpoint, reformer_export.export_module\n"
        "reformer_export.verify_artifact, reformer_export.bench_artifact, reformer_export.serve\n"
        "reformer_export.run_files, reformer_export.write_triton_repository\n"
        "heavy = {'torch', 'transformers', 'onnx', 'pyarrow', 'ray', 'tensorrt_rtx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
