"""ModelSpec + weights -> the canonical model of the spec's family."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from reformer_export.low_precision import LowPrecision
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.modeling.decoder import Decoder
from reformer_export.modeling.lucidrains import LucidrainsReformer, LucidrainsVectors, build_lucidrains
from reformer_export.modeling.lucidrains_decoder import LucidrainsDecoder
from reformer_export.modeling.reformer import Reformer, build_reformer
from reformer_export.spec import DType, ModelSpec

CanonicalModel = Reformer | LucidrainsReformer | LucidrainsVectors
CanonicalDecoder = Decoder | LucidrainsDecoder


def build_model(
    spec: ModelSpec,
    weights: Mapping[str, torch.Tensor],
    dtype: DType = "float32",
    low_precision: LowPrecision | None = None,
) -> CanonicalModel:
    """A model in evaluation mode; `weights` under the names that `Checkpoint.weights` has; `low_precision`
    says which dense layers have weights of few bits.

    CheckpointError when names or shapes do not fit.
    """
    if isinstance(spec, LucidrainsSpec):
        return build_lucidrains(spec, weights, dtype, low_precision)
    return build_reformer(spec, weights, dtype, low_precision)


def build_decoder(model: CanonicalModel) -> CanonicalDecoder:
    """The decoder of a model that `check_decodable` lets pass, on its modules."""
    if isinstance(model, LucidrainsReformer):
        return LucidrainsDecoder(model)
    assert isinstance(model, Reformer)
    return Decoder(model)
