"""transformers' own model, eager or through torch.compile, in float32 or bfloat16."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.models import BenchmarkModel
from reformer_export.artifact.manifest import read_manifest
from reformer_export.checkpoints.quiet import silence_transformers
from reformer_export.measure.contenders import Run
from reformer_export.modeling import TORCH_DTYPES
from reformer_export.reference.eager import open_transformers
from reformer_export.reference.eager_values import attention_name
from reformer_export.spec import DType

COMPILE_OPTIONS: Final = {"fallback_random": True}
"""Without it compiled code has random numbers of its own: other rotations than eager's for the same seed."""

RECOMPILE_LIMIT: Final = 64
"""Above what the layers of two models need, or torch.compile would leave the last ones to eager, silently."""

HASHED_TOKENS: Final = 512
MOST_CHANGED: Final = 0.05
"""Share of buckets: near-ties change under one in a hundred in bfloat16, other rotations nearly all."""


def open_peer(model: BenchmarkModel, dtype: DType, compiled: bool) -> Run:
    """transformers' model of `model` in `dtype`, without a cache and a mask, as its fastest; it compiles when
    it first meets a length."""
    module = open_transformers(model.checkpoint, read_manifest(model.artifact)).model.to(TORCH_DTYPES[dtype])
    forward: Callable[..., Any] = module
    if compiled:
        check_hashes(module, model)
        forward = _compile(module)
    # Compiled code crashes in inference mode.
    mode: Any = torch.no_grad if compiled else torch.inference_mode

    def run(ids: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        with mode():
            logits = forward(torch.from_numpy(ids), use_cache=False, return_dict=True).logits
        return {"logits": logits.float().numpy()}

    return run


def forget_compiled() -> None:
    """Compile anew for the next length: code for any length, which a second one would get, is slower."""
    torch._dynamo.reset()


def check_hashes(module: Any, model: BenchmarkModel) -> None:
    """Whether an LSH layer of `module` puts random tokens in the same buckets when it is compiled."""
    layer = module.get_submodule(f"reformer.{attention_name(model.spec.lsh_layers[0])}")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, HASHED_TOKENS, model.spec.hidden_size, generator=generator).to(module.dtype)
    with torch.no_grad(), silence_transformers():
        expected, got = (run(hidden).buckets for run in (layer, _compile(layer)))
    changed = float((expected != got).float().mean())
    if changed > MOST_CHANGED:
        raise click.ClickException(
            f"torch.compile: got other buckets than eager for {changed:.0%} of the tokens, expected at most "
            f"{MOST_CHANGED:.0%}; it drew other rotations, so that its time is another model's"
        )


def _compile(module: Any) -> Callable[..., Any]:
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)  # it tells of every graph break
    compiled: Callable[..., Any] = torch.compile(module, options=COMPILE_OPTIONS)
    return compiled
