"""What the modules share that stand in a user's own module in place of a library's layers.

They are called as those are, and give back what those give, as far as it can be exported.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from reformer_export.errors import ExportError
from reformer_export.spec import AttentionSpec, ModelSpec


class CalledModule(nn.Module):
    """A module in place of `original`, whose attributes it has beside its own.

    Attributes:
        where: the original's name in a user's words.
        spec: of the canonical model inside.
    """

    def __init__(self, where: str, original: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.where, self.spec = where, spec
        self.__dict__["_original"] = original

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_original" not in self.__dict__:
                raise
            return getattr(self.__dict__["_original"], name)

    def attention(self) -> list[nn.Module]:
        """The canonical attention of each layer, in their order."""
        raise NotImplementedError

    def use(self, layer: int) -> tuple[ModelSpec, AttentionSpec]:
        """What describes the attention of a layer."""
        return self.spec, self.spec.layers[layer]

    def refuse(self, **arguments: object) -> None:
        """ExportError for the first of a call's arguments that asks for anything."""
        for name, value in arguments.items():
            if value is not None and value is not False:
                got = f"{name} in a call"
                raise ExportError(self.where, got, "none, as it is not exported", f"call it without {name}")

    def unavailable(self, name: str) -> Any:
        """What stands for a part of the result that is not exported."""
        return Unavailable(f"{name} of {self.where}")

    def library(self) -> Any:
        """The library's module that defines the original's class or that of its base."""
        original = self.__dict__["_original"]
        names = [each.__module__ for each in type(original).__mro__]
        return next(sys.modules[name] for name in names if name.startswith(("transformers.", "reformer_")))


class Unavailable:
    """A result that is not exported: whoever uses it is told so."""

    def __init__(self, what: str) -> None:
        self.__dict__["what"] = what

    def _refuse(self, *_: object, **__: object) -> Any:
        what = self.__dict__["what"]
        raise ExportError(what, "a use of it", "none, as it is not exported", "leave it unused")

    __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = __add__ = __mul__ = _refuse

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        next(each for each in args if isinstance(each, cls))._refuse()


def mask_of(mask: torch.Tensor | None, tokens: torch.Tensor, where: str) -> torch.Tensor:
    """A mask as a layer's caller gives it, [B, L] of any type, or None; [B, L, ...] -> int32 [B, L]."""
    if mask is None:
        return torch.ones(tokens.shape[:2], dtype=torch.int32, device=tokens.device)
    if mask.dim() != 2:
        got, expected = f"a mask of {mask.dim()} axes in a call", "[batch, sequence]"
        raise ExportError(where, got, expected, "give one value a token")
    for axis in (0, 1):
        torch._check(mask.shape[axis] == tokens.shape[axis])  # type: ignore[no-untyped-call]
    return (mask if mask.dtype == torch.bool else mask != 0).to(torch.int32)
