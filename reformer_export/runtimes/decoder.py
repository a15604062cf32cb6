"""What runs decode.onnx for a decoding state: a session of ONNX Runtime, or an engine of TensorRT."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.decoding import CacheTensor
from reformer_export.runtimes.cache_buffers import CacheBuffers


class DecodeCall(Protocol):
    """A call of the graph on some neighbouring rows of caches, to be made again and again.

    `ids` int64 [batch, sequence], `lengths` and `new_lengths` int32 [batch]: what the next `run` reads;
    `buffers`: the caches.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int32]
    new_lengths: NDArray[np.int32]
    buffers: CacheBuffers

    def run(self) -> NDArray[np.float32]:
        """Float32 [batch, vocab_size]: the logits of each row's last new token. The caches have the new
        tokens when this returns, and no token less than before when it raises."""


class Decoder(Protocol):
    """`tensors`: the caches, in the order of the graph's inputs."""

    tensors: tuple[CacheTensor, ...]
    vocab_size: int

    def bind(self, buffers: CacheBuffers, first_row: int, ids: NDArray[np.int64]) -> DecodeCall:
        """A call on the rows from `first_row` on, with `ids` int64 [batch, sequence] as its new tokens."""
