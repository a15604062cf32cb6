"""What every test of a loader needs: a saved model to damage, and a check of the message that refuses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from transformers import ReformerModel, ReformerModelWithLMHead

from reformer_export.errors import ReformerExportError
from tests.hf_models import config_t, save_model

Refused = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A saved ReformerModel of configuration T."""
    return save_model(tmp_path, config_t(), ReformerModel)


@pytest.fixture
def decoder(tmp_path: Path) -> Path:
    """A saved causal language model of configuration T."""
    return save_model(tmp_path, config_t(is_decoder=True), ReformerModelWithLMHead)


@pytest.fixture
def refused() -> Refused:
    """A block that must raise one line of what, got, expected and fix that holds all the given parts."""

    @contextmanager
    def check(*parts: str) -> Iterator[None]:
        with pytest.raises(ReformerExportError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message
        for part in ("got", "expected", "; ", *parts):
            assert part in message

    return check
