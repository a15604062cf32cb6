"""What the function bodies and the translations are written in."""

from __future__ import annotations

from typing import Final

from onnxscript.values import Opset

from reformer_export.contract import DOMAIN, VERSION

REFORMER: Final = Opset(DOMAIN, VERSION)

TRANSLATION: Final = Opset(f"{DOMAIN}.translation", 1)
"""Of functions that become nodes and are in no file. The exporter wants their inputs and results typed and
does not check them, so FLOAT stands for T."""

BLOCK_ELEMENTS: Final = 524288
"""Scores or logits, float32, that a body computes at a time: they fit the processor's cache."""
