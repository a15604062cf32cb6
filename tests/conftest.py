from __future__ import annotations

import functools
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# The same examples on every run of CI, so that a red run means a changed project; new ones at a desk.
settings.register_profile("ci", derandomize=True, database=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

# A shell's background ignores interrupts, and what is started there would; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def translations_read_once() -> Iterator[None]:
    """torch.onnx has onnxscript parse the source of its 500 translations for every export, and reads their
    signatures, four tenths of a small one's time; once is enough for all that a process exports."""
    from torch.onnx._internal._lazy_import import onnxscript_apis as apis
    from torch.onnx._internal.exporter import _schemas

    read = type(apis).__getattr__  # imports onnxscript, at the first export
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(lambda: read(apis, "get_torchlib_ops")())
        patch.setitem(vars(apis), "get_torchlib_ops", once)
        if hasattr(_schemas, "op_signature_from_function"):  # not in every torch
            read_signature = functools.cache(_schemas.op_signature_from_function)
            patch.setattr(_schemas, "op_signature_from_function", read_signature)
        yield


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
