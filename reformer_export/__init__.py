"""Take a trained PyTorch Reformer (LSH attention) to production: export, verify, run.

    import reformer_export
    model = reformer_export.load("OUT")          # an artifact written by `reformer-export onnx`
    outputs = model.run([[5, 6, 7]])             # {"logits": float32 [batch, sequence, vocab_size]}

Importing this package imports neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reformer_export.runtimes import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    if name == "load":
        from reformer_export.runtimes import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
