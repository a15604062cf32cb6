"""What every runtime says of itself: `Runtime`."""

from __future__ import annotations

from pathlib import Path

import pytest

from reformer_export.errors import InputError
from reformer_export.runtimes import load
from tests.runtimes.artifacts import write_artifact
from tests.runtimes.tensorrt.engines import open_fake, write_engine, write_library
from tests.runtimes.test_num_hashes import write_choice_artifact


def test_onnx_runtime_in_words(tmp_path: Path) -> None:
    out = write_artifact(tmp_path / "out")
    with load(out, provider="cpu", native="off") as model:
        assert model.description == "ONNX Runtime, CPU, function bodies"
        assert model.record is None
        assert repr(model) == f"<{out}: text-generation, ONNX Runtime, CPU, function bodies>"
    assert repr(model).startswith(f"<{out}: ")  # closed
    with load(out, provider="cpu") as model:
        kernels = "function bodies" if model.native is None else f"native kernels {model.native}"
        assert model.description == f"ONNX Runtime, CPU, {kernels}"


def test_a_choice_of_hashes_is_in_the_words(tmp_path: Path) -> None:
    with load(write_choice_artifact(tmp_path / "out"), provider="cpu", native="off", num_hashes=1) as model:
        assert model.description == "ONNX Runtime, CPU, function bodies, 1 of 2 hashes"


def test_an_engine_in_words(tmp_path: Path) -> None:
    out, library = write_artifact(tmp_path / "out"), write_library(tmp_path)
    write_engine(out, library)
    with open_fake(out, library) as model:
        assert (model.description,) == model.providers
        assert model.record.name == "fake"


def test_the_tokenizer_is_loaded_once_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    with load(write_artifact(tmp_path / "bytes")) as model:
        assert model.tokenizer.encode("a") == [99]
        assert model.tokenizer is model.tokenizer
    with load(write_artifact(tmp_path / "none", vocab_size=50)) as model:
        for _ in range(2):
            with pytest.raises(InputError, match=r"no tokenizer\.json and 50 ids"):
                _ = model.tokenizer
