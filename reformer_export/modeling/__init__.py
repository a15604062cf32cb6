"""The canonical PyTorch Reformers that are exported."""

from reformer_export.modeling.build import CanonicalDecoder, CanonicalModel, build_decoder, build_model
from reformer_export.modeling.decoder import Decoder
from reformer_export.modeling.lucidrains_decoder import LucidrainsDecoder
from reformer_export.modeling.reformer import TORCH_DTYPES, Reformer

__all__ = [
    "TORCH_DTYPES",
    "CanonicalDecoder",
    "CanonicalModel",
    "Decoder",
    "LucidrainsDecoder",
    "Reformer",
    "build_decoder",
    "build_model",
]
