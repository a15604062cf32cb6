"""The canonical PyTorch Reformers that are exported."""

from reformer_export.modeling.build import CanonicalModel, build_model
from reformer_export.modeling.decoder import Decoder
from reformer_export.modeling.reformer import TORCH_DTYPES, Reformer

__all__ = ["TORCH_DTYPES", "CanonicalModel", "Decoder", "Reformer", "build_model"]
