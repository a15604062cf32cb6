from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# The same examples on every run of CI, so that a red run means a changed project; new ones at a desk.
settings.register_profile("ci", derandomize=True, database=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture
def head_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers as it was from 5.0 to 5.23: the language-model head adds no bias, whatever is stored."""
    import torch
    from transformers.models.reformer import modeling_reformer

    class HeadWithoutBias(modeling_reformer.ReformerOnlyLMHead):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.decoder = torch.nn.Linear(2 * config.hidden_size, config.vocab_size, bias=False)

    monkeypatch.setattr(modeling_reformer, "ReformerOnlyLMHead", HeadWithoutBias)
