from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from reformer_export import export_checkpoint
from tests.hf_models import config_t, save_model


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Configuration T as a causal language model."""
    config = config_t(is_decoder=True)
    return save_model(tmp_path_factory.mktemp("workflows"), config, transformers.ReformerModelWithLMHead)


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("workflows") / "out"
    export_checkpoint(checkpoint, out)
    return out


@pytest.fixture(scope="session")
def decoding(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with decode.onnx."""
    out = tmp_path_factory.mktemp("workflows") / "decoding"
    export_checkpoint(checkpoint, out, decode=True, verify=False)
    return out
