"""ProductKeysSpec: the memory that some layers of a reformer-pytorch model have for a feed-forward.

It is the package product-key-memory's (Lample et al. 2019, "Large Memory Layers with Product Keys"), made
with nothing but `pkm_num_keys`: the constants here are its defaults in every version that reformer-pytorch
can run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from reformer_export.errors import SpecError
from reformer_export.spec import check_size

QueryNorm = Literal["layer", "batch"]

NUM_QUERIES: Final = 4
"""Queries a token asks with (`heads`), each of two halves."""

QUERY_SIZE: Final = 128
"""Elements of half a query."""

NUM_CHOSEN: Final = 32
"""Memories that a query chooses (`topk`)."""

MAX_KEYS: Final = 4096
"""So that there are at most 2^24 memories."""


@dataclass(frozen=True)
class ProductKeysSpec:
    """Memories in place of feed-forwards.

    Attributes:
        layers: which, counted from 0, in order.
        num_keys: `pkm_num_keys`: keys for each half of a query; their pairs are the memories.
        query_norm: of the queries: a layer norm of each half (from 0.2.2 of the package on), or a batch norm
            of all, on the statistics that training left (0.1.1 to 0.1.10).
    """

    layers: tuple[int, ...]
    num_keys: int
    query_norm: QueryNorm = "layer"

    def __post_init__(self) -> None:
        for layer in self.layers:
            check_size("pkm_layers", layer, 0)
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise SpecError("pkm_layers", self.layers, "layers in their order, each once", _FIX)
        check_size("pkm_num_keys", self.num_keys, NUM_CHOSEN, MAX_KEYS)
        if self.query_norm not in get_args(QueryNorm):
            raise SpecError("query_norm", repr(self.query_norm), f"one of {get_args(QueryNorm)}", _FIX)

    @property
    def num_memories(self) -> int:
        return self.num_keys**2


_FIX: Final = "mend the file of keyword arguments"
