"""The layers that hash in a module of whatever make: which of them runs, and the buckets that it chooses.

Layers are those of transformers and reformer-pytorch, recognised by their class's full name, so that neither
package need be there. Forward hooks see what they take and give; nothing of the module is replaced.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

Kind = Literal["transformers", "reformer-pytorch", "bare"]
"""Whose layer it is: transformers' LSHSelfAttention, reformer-pytorch's LSHSelfAttention, or the LSHAttention
of that package without projections."""

_TRANSFORMERS: Final = "transformers.models.reformer.modeling_reformer"
_LUCIDRAINS: Final = "reformer_pytorch.reformer_pytorch"

KINDS: Final[dict[str, Kind]] = {
    f"{_TRANSFORMERS}.LSHSelfAttention": "transformers",
    f"{_LUCIDRAINS}.LSHSelfAttention": "reformer-pytorch",
    f"{_LUCIDRAINS}.LSHAttention": "bare",
}

PADDING_MODEL: Final = f"{_TRANSFORMERS}.ReformerModel"
"""Pads what it is given to a multiple of its chunk lengths, and cuts its result again."""

AUTOPADDER: Final = "reformer_pytorch.autopadder.Autopadder"
"""Pads what it is given, unless attention is dense, where a graph may pad nevertheless."""


@dataclass(frozen=True)
class HashingUse:
    """One run of a layer that hashes in a pass of its module: the artifact's layer `index`.

    `rotations`: float32 [H, D, R, S]; `num_buckets`: the factors of the bucket count, none where it grows
    with the length.
    """

    index: int
    rotations: torch.Tensor
    num_buckets: tuple[int, ...]

    @property
    def rounds(self) -> int:
        """Of hashing."""
        return self.rotations.shape[2]


Read = tuple[torch.Tensor, torch.Tensor]
"""Buckets int64 [B, H, R, K], and the vectors float32 [B, K, H*D] that were hashed."""


def use_name(path: str, use: int) -> str:
    """A module's run in a pass: its path, and from the second run on how many came before it."""
    return f"{path}@{use}" if use else path


def find_hashing_layers(module: torch.nn.Module) -> dict[str, Kind]:
    """The layers that hash, by path, in the order in which they stand in the module; of those that
    reformer-pytorch puts into another, the outer one."""
    found: dict[str, Kind] = {}
    for path, layer in module.named_modules():
        kind = next((KINDS[name] for name in class_names(layer) if name in KINDS), None)
        if kind is not None and path.rpartition(".")[0] not in found:
            found[path] = kind
    return found


def class_names(module: torch.nn.Module) -> list[str]:
    """The full names of a module's class and those that it is derived from."""
    return [f"{known.__module__}.{known.__qualname__}" for known in type(module).__mro__]


@dataclass
class LayerWatch:
    """Hooks that say which layer runs, and gather the buckets of one pass: `buckets` int32 [B, H, R, K] by
    the index of the use, zeros where it attends densely.

    `uses`: by the layer's `id` and how many of its runs came before; `enter` is told the index of the use
    that begins, and None where one ends; `runs` counts the runs of each layer. `vectors`, only where they are
    `wanted`: what each use hashes, float32 [B, K, H*D].
    """

    uses: Mapping[tuple[int, int], HashingUse]
    enter: Callable[[int | None], None]
    wanted: bool = False
    buckets: dict[int, NDArray[np.int32]] = field(default_factory=dict)
    runs: Counter[int] = field(default_factory=Counter)
    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    _given_lengths: list[int] = field(default_factory=list)
    _unpadded: list[int] = field(default_factory=list)
    _pieces: list[torch.Tensor] = field(default_factory=list)
    _projected: torch.Tensor = field(default_factory=lambda: torch.zeros(0))

    def attach(self, module: torch.nn.Module) -> Iterator[Any]:
        """Put the hooks on `module`; the handles that remove them."""
        for path, kind in find_hashing_layers(module).items():
            layer = module.get_submodule(path)
            yield layer.register_forward_pre_hook(self._begin)
            if kind != "bare":
                projection = "query_key" if kind == "transformers" else "toqk"
                yield layer.get_submodule(projection).register_forward_hook(self._keep_projected)
            if kind == "reformer-pytorch":
                yield layer.get_submodule("lsh_attn").register_forward_hook(self._keep_piece)
            yield layer.register_forward_hook(self._end(kind))
        for layer in module.modules():
            if PADDING_MODEL in class_names(layer):
                yield layer.register_forward_pre_hook(self._begin_padding, with_kwargs=True)
                yield layer.register_forward_hook(lambda *_: _drop_last(self._given_lengths))
            if AUTOPADDER in class_names(layer):
                yield layer.register_forward_pre_hook(self._begin_autopadder)
                yield layer.register_forward_hook(lambda *_: _drop_last(self._unpadded))

    @property
    def pads_less(self) -> bool:
        """Whether eager pads less than the graph does in the part that runs."""
        return any(self._unpadded)

    def cut(self, value: torch.Tensor, dim: int) -> torch.Tensor:
        """`value` without the tokens with which the model around it pads."""
        if not self._given_lengths:
            return value
        return value.narrow(dim, 0, min(self._given_lengths[-1], value.shape[dim]))

    def _running(self, layer: Any) -> HashingUse | None:
        return self.uses.get((id(layer), self.runs[id(layer)]))

    def _begin(self, layer: Any, _inputs: Any) -> None:
        use = self._running(layer)
        self._pieces.clear()
        self.enter(None if use is None else use.index)

    def _end(self, kind: Kind) -> Callable[..., None]:
        def hook(layer: Any, inputs: Any, output: Any) -> None:
            use = self._running(layer)
            self.runs[id(layer)] += 1
            self.enter(None)
            if use is None:
                return
            if kind == "transformers":
                buckets, vectors = self._read_transformers(layer, use, output)
            elif kind == "reformer-pytorch":
                buckets, vectors = self._read_pieces(layer, use)
            else:
                vectors = inputs[0]
                buckets = _take_off_offsets(output[2].reshape(len(vectors), 1, use.rounds, -1), layer)
            self.buckets[use.index] = buckets.numpy().astype(np.int32)
            if self.wanted and not self.pads_less:
                self.vectors[use.index] = vectors.numpy().copy()

        return hook

    def _read_transformers(self, layer: Any, use: HashingUse, output: Any) -> Read:
        vectors = self.cut(self._projected, 1)
        batch, length = self._projected.shape[:2]
        size = batch, layer.num_attention_heads, use.rounds
        if output.buckets is None:
            return torch.zeros(*size, vectors.shape[1], dtype=torch.int64), vectors
        buckets = output.buckets.reshape(*size, length)
        return self.cut(without_round_offsets(buckets, math.prod(use.num_buckets)), 3), vectors

    def _read_pieces(self, layer: Any, use: HashingUse) -> Read:
        # A graph has a layer's memory before the sequence, where the package has it behind.
        vectors = self._projected[..., layer.n_local_attn_heads * layer.dim_head :].roll(layer.num_mem_kv, 1)
        batch, keys = vectors.shape[:2]
        size = batch, layer.heads - layer.n_local_attn_heads, use.rounds, keys
        if not self._pieces:
            return torch.zeros(*size[:3], keys + sum(self._unpadded), dtype=torch.int64), vectors
        counted = torch.cat(self._pieces).reshape(size)
        return _take_off_offsets(counted, layer).roll(layer.num_mem_kv, -1), vectors

    def _keep_projected(self, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
        self._projected = output

    def _keep_piece(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._pieces.append(output[2])

    def _begin_padding(self, _module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        given = keywords.get("input_ids", inputs[0] if inputs else None)
        if given is None:
            given = keywords["inputs_embeds"]
        self._given_lengths.append(given.shape[1])

    def _begin_autopadder(self, padder: Any, inputs: tuple[Any, ...]) -> None:
        keys, multiple = inputs[0].shape[1] + padder.num_mem_kv, 2 * padder.bucket_size
        is_dense = keys <= padder.full_attn_thres and padder.full_attn_thres % multiple == 0
        self._unpadded.append(-keys % multiple if is_dense else 0)


def without_round_offsets(buckets: torch.Tensor, num_buckets: int) -> torch.Tensor:
    """transformers' buckets int64 [B, H, R, L], which count on from round to round, as each round has them.

    The count of a round grows by one when anything is masked, and only then a bucket of the first round is
    `num_buckets`.
    """
    masked = int(bool((buckets[:, :, 0] == num_buckets).any()))
    return buckets - torch.arange(buckets.shape[2])[:, None] * (num_buckets + masked)


def _take_off_offsets(buckets: torch.Tensor, layer: Any) -> torch.Tensor:
    """The same for reformer-pytorch's, of K keys: [B, H, R, K]."""
    count: int = buckets.shape[3] // layer.bucket_size
    return buckets - torch.arange(buckets.shape[2])[:, None] * count


def _drop_last(items: list[int]) -> None:
    """A hook's result would be the module's."""
    items.pop()
