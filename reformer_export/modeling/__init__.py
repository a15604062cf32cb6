"""The canonical PyTorch Reformer that is exported."""

from reformer_export.modeling.decoder import Decoder
from reformer_export.modeling.reformer import TORCH_DTYPES, Reformer, build_model

__all__ = ["TORCH_DTYPES", "Decoder", "Reformer", "build_model"]
