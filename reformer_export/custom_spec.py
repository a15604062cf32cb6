"""CustomSpec: the description of a module of a user's own, with a Reformer's attention somewhere inside.

What goes in and out is told by name, type and shape; of the module itself only the attention is described, a
layer for each call of one, in the order of a run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_args

from reformer_export.errors import SpecError
from reformer_export.spec import (
    MAX_DIMENSION,
    MAX_NUM_HASHES,
    MAX_POSITIONS,
    AttentionSpec,
    LearnedPositionsSpec,
    LSHAttentionSpec,
    ModelSpec,
    Task,
    check_size,
)

BATCH: Final = "batch"
SEQUENCE: Final = "sequence"
"""The names of a module's first two symbolic dimensions, where its caller does not name them."""

TENSOR_TYPES: Final = (
    *("float16", "bfloat16", "float32", "float64", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
"""Of inputs and outputs."""

Family = Literal["transformers", "lucidrains"]

MAX_TENSORS: Final = 1024
MAX_RANK: Final = 16
MAX_TEXT: Final = 1024
"""Inputs or outputs, their dimensions, and characters of a name or a path: far above any real module."""

EXPORT_AGAIN: Final = "export the module again"

_ABSENT: Final = ("vocab_size", "hidden_size", "num_heads", "head_size", "feed_forward_size")
_DIMENSION: Final = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class CustomTensor:
    """An input or output; `shape` has numbers, names of dimensions, and of an output also what is computed
    from them, as text."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        _check_text("name", self.name)
        if self.dtype not in TENSOR_TYPES:
            raise SpecError(self.name, repr(self.dtype), "a type of tensors", EXPORT_AGAIN)
        if len(self.shape) > MAX_RANK:
            raise SpecError(self.name, f"{len(self.shape)} axes", f"at most {MAX_RANK}", EXPORT_AGAIN)
        for size in self.shape:
            if isinstance(size, str):
                _check_text(f"shape of {self.name}", size)
            else:
                check_size(f"shape of {self.name}", size, 0)


@dataclass(frozen=True)
class Dimension:
    """A symbolic dimension of the inputs, and the sizes that it may have."""

    name: str
    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _DIMENSION.fullmatch(self.name):
            raise SpecError("dimension", repr(self.name), "a name", EXPORT_AGAIN)
        check_size(f"dimension {self.name}", self.minimum, 0)
        check_size(f"dimension {self.name}", self.maximum, max(self.minimum, 1))


@dataclass(frozen=True)
class AttentionUse:
    """One call of a layer with attention.

    Attributes:
        path: of the module in the user's own, as `get_submodule` takes it; "" where that is the layer.
        call: how many calls of this module came before it in a run.
        family: whose class it is.
        num_heads: heads that hash, or of local attention those that attend.
        head_size: elements of a head.
        is_causal: whether later positions are masked.
        rotation_heads: heads that have random rotations of their own, 1 where all share them; 0 without.
        rotation_columns: columns of the rotations, half the sum of the factors of the greatest number of
            buckets; 0 without rotations.
        dense_threshold: tokens up to which attention is full and nothing is hashed.
    """

    path: str
    call: int
    family: Family
    num_heads: int
    head_size: int
    is_causal: bool
    rotation_heads: int = 0
    rotation_columns: int = 0
    dense_threshold: int = 0

    def __post_init__(self) -> None:
        _check_text("path", self.path, 0)
        if self.family not in get_args(Family):
            raise SpecError("family", repr(self.family), f"one of {get_args(Family)}", EXPORT_AGAIN)
        check_size("num_heads", self.num_heads)
        check_size("head_size", self.head_size)
        for name in ("call", "rotation_heads", "rotation_columns", "dense_threshold"):
            check_size(name, getattr(self, name), 0)
        if not isinstance(self.is_causal, bool):
            raise SpecError("is_causal", repr(self.is_causal), "true or false", EXPORT_AGAIN)


def _check_text(what: str, text: object, least: int = 1) -> None:
    if not isinstance(text, str) or not least <= len(text) <= MAX_TEXT:
        raise SpecError(what, f"{text!r:.80}", f"text of {least} to {MAX_TEXT} characters", EXPORT_AGAIN)


@dataclass(frozen=True, kw_only=True)
class CustomSpec(ModelSpec):
    """A module of a user's own; `custom_spec` makes one. What a ModelSpec says of a whole Reformer is 0.

    `layers` and `uses` belong together, one of each for every call of a layer with attention.
    """

    inputs: tuple[CustomTensor, ...]
    outputs: tuple[CustomTensor, ...]
    dimensions: tuple[Dimension, ...]
    uses: tuple[AttentionUse, ...]

    def __post_init__(self) -> None:
        for what, items in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = {each.name for each in items}
            if not 0 < len(items) <= MAX_TENSORS or len(names) < len(items):
                got = f"{len(items)} with {len(names)} names"
                raise SpecError(what, got, f"1 to {MAX_TENSORS}, each with a name of its own", EXPORT_AGAIN)
        used = {size for each in self.inputs for size in each.shape if isinstance(size, str)}
        named = [each.name for each in self.dimensions]
        if len(set(named)) < len(named) or set(named) != used:
            raise SpecError("dimensions", f"{named[:8]}", f"those of the inputs, {used}", EXPORT_AGAIN)
        if len(self.uses) != len(self.layers):
            raise SpecError("uses", f"{len(self.uses)}", f"{len(self.layers)}, one a layer", EXPORT_AGAIN)
        super().__post_init__()

    def _check_buckets(self) -> None:
        for layer, use in zip(self.layers, self.uses, strict=True):
            if isinstance(layer, LSHAttentionSpec):
                check_size("num_hashes", layer.num_hashes, 1, MAX_NUM_HASHES)
                check_size("rotation_heads", use.rotation_heads)
                check_size("rotation_columns", use.rotation_columns)

    def _check_positions(self) -> None:
        """There are none."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        return ("custom",)

    @property
    def absent_sizes(self) -> tuple[str, ...]:
        return _ABSENT

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.outputs)

    @cached_property
    def padding_multiple(self) -> int:
        return 1

    @cached_property
    def padding_threshold(self) -> int:
        return 0

    @cached_property
    def max_length(self) -> int:
        """The greatest size of the dimension `sequence`."""
        return self.max_position_embeddings

    def takes_length(self, length: int) -> bool:
        lengths = [each for each in self.dimensions if each.name == SEQUENCE]
        return all(each.minimum <= length <= each.maximum for each in lengths)

    def rotations_shape(self, layer: int) -> tuple[int, int, int, int]:
        """[rotation_heads, head_size, num_hashes, rotation_columns] of an LSH layer."""
        attention, use = self.layers[layer], self.uses[layer]
        assert isinstance(attention, LSHAttentionSpec)
        return use.rotation_heads, use.head_size, attention.num_hashes, use.rotation_columns

    def is_hashed(self, layer: int, length: int) -> bool:
        """Whether `layer` hashes when it is given sequences of `length` tokens."""
        attention = self.layers[layer]
        return isinstance(attention, LSHAttentionSpec) and length > self.uses[layer].dense_threshold


def custom_spec(
    inputs: tuple[CustomTensor, ...],
    outputs: tuple[CustomTensor, ...],
    dimensions: tuple[Dimension, ...],
    layers: tuple[AttentionSpec, ...],
    uses: tuple[AttentionUse, ...],
) -> CustomSpec:
    """The description of a module with these inputs and outputs, and these layers with attention."""
    lengths = [each.maximum for each in dimensions if each.name == SEQUENCE]
    longest = min([*lengths, MAX_POSITIONS])
    return CustomSpec(
        task="custom",
        vocab_size=0,
        hidden_size=0,
        num_heads=0,
        head_size=0,
        feed_forward_size=0,
        hidden_act="relu",
        layer_norm_eps=0.0,
        is_causal=False,
        positions=LearnedPositionsSpec(longest),
        max_position_embeddings=longest,
        layers=layers,
        inputs=inputs,
        outputs=outputs,
        dimensions=dimensions,
        uses=uses,
    )


UNLIMITED: Final = MAX_DIMENSION
"""The maximum of a dimension whose sizes nothing limits."""
