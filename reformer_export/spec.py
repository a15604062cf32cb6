"""ModelSpec: the only description of a model, from the loader to the runtimes.

Frozen, validated on construction, and the same object whether it was read from a foreign checkpoint or
from an artifact's manifest. Knows nothing of torch, ONNX or any runtime. A ModelSpec is transformers'
Reformer; lucidrains_spec.py has reformer-pytorch's, a subclass with the other lengths and hashing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_args

from reformer_export.attention_spec import (
    MAX_DIMENSION,
    MAX_NUM_HASHES,
    MEND_CONFIG,
    AttentionSpec,
    LocalAttentionSpec,
    LSHAttentionSpec,
    check_size,
)
from reformer_export.contract import IDS_INPUT, MASK_INPUT, VECTORS_INPUT
from reformer_export.errors import SpecError
from reformer_export.positions_spec import AxialPositionsSpec, LearnedPositionsSpec, PositionsSpec

__all__ = [
    "ACTIVATIONS",
    "DTYPES",
    "MAX_DIMENSION",
    "MAX_LAYERS",
    "MAX_NUM_HASHES",
    "MAX_POSITIONS",
    "MAX_ROTATION_ELEMENTS",
    "OUTPUT_NAMES",
    "TASKS",
    "Activation",
    "AttentionSpec",
    "AxialPositionsSpec",
    "DType",
    "LSHAttentionSpec",
    "LearnedPositionsSpec",
    "LocalAttentionSpec",
    "LogitsPositions",
    "ModelSpec",
    "PositionsSpec",
    "Task",
    "TokenizerChoice",
    "check_size",
    "padded_length",
]

Task = Literal[
    "feature-extraction",
    "text-generation",
    "fill-mask",
    "text-classification",
    "question-answering",
    "custom",
]
DType = Literal["float32", "float16", "bfloat16"]
Activation = Literal["relu", "gelu", "gelu_new", "silu", "tanh", "sigmoid"]
LogitsPositions = Literal["all", "last"]
TokenizerChoice = Literal["auto", "bytes", "none"]

TASKS: Final[tuple[Task, ...]] = tuple(task for task in get_args(Task) if task != "custom")
"""Of whole models; custom_spec.py has the other one."""
DTYPES: Final[tuple[DType, ...]] = get_args(DType)
ACTIVATIONS: Final[tuple[Activation, ...]] = get_args(Activation)

OUTPUT_NAMES: Final[dict[Task, tuple[str, ...]]] = {
    "feature-extraction": ("last_hidden_state",),
    "text-generation": ("logits",),
    "fill-mask": ("logits",),
    "text-classification": ("logits",),
    "question-answering": ("start_logits", "end_logits"),
}

MAX_ROTATION_ELEMENTS: Final = 2**28
"""float32 numbers of one layer's rotations, which are drawn and stored: 1 GiB."""

MAX_LAYERS: Final = 1024

MAX_POSITIONS: Final = 2**21
"""Tokens: up to here the function bodies compare positions exactly (see ops/lsh_attention.py)."""


def padded_length(length: int, padding_multiple: int, padding_threshold: int) -> int:
    """Tokens in the virtually padded sequence: `length` rounded up to `padding_multiple`, unless it is at
    most `padding_threshold`."""
    if length <= padding_threshold or length % padding_multiple == 0:
        return length
    return -(-length // padding_multiple) * padding_multiple


@dataclass(frozen=True)
class ModelSpec:
    """A Reformer for inference, with one head.

    `max_position_embeddings` limits the padded length, as does the number of positions.
    `feed_forward_slices` cuts the feed-forward's inner dimension so that only one slice of it is alive at a
    time; it changes memory, not results. `logits` says whether a text-generation model returns logits for
    all positions or for the last attended one.
    """

    task: Task
    vocab_size: int
    hidden_size: int
    num_heads: int
    head_size: int
    feed_forward_size: int
    hidden_act: Activation
    layer_norm_eps: float
    is_causal: bool
    positions: PositionsSpec
    max_position_embeddings: int
    layers: tuple[AttentionSpec, ...]
    num_labels: int = 2
    feed_forward_slices: int = 1
    logits: LogitsPositions = "all"

    def __post_init__(self) -> None:
        if self.task not in self.tasks:
            raise SpecError("task", self.task, f"one of {', '.join(self.tasks)}", "choose another `task`")
        for name in ("vocab_size", "hidden_size", "num_heads", "head_size", "feed_forward_size"):
            check_size(name, getattr(self, name), 0 if name in self.absent_sizes else 1)
        for name in ("max_position_embeddings", "num_labels", "feed_forward_slices"):
            check_size(name, getattr(self, name))
        if self.hidden_act not in ACTIVATIONS:
            raise SpecError(
                "hidden_act",
                self.hidden_act,
                f"one of {', '.join(ACTIVATIONS)}",
                "open an issue for another activation",
            )
        if not (isinstance(self.layer_norm_eps, float) and 0.0 <= self.layer_norm_eps < 1.0):
            raise SpecError("layer_norm_eps", self.layer_norm_eps, "a number from 0 to 1", MEND_CONFIG)
        if not 0 < len(self.layers) <= MAX_LAYERS:
            raise SpecError("attn_layers", f"{len(self.layers)} layers", f"1 to {MAX_LAYERS}", MEND_CONFIG)
        self._check_buckets()
        for index in self.lsh_layers:
            elements = math.prod(self.rotations_shape(index))
            if elements > MAX_ROTATION_ELEMENTS:
                raise SpecError(
                    f"rotations of layer {index}",
                    f"{elements} numbers ({self.num_heads} heads x {self.head_size} x num_hashes x buckets "
                    "/ 2)",
                    f"at most {MAX_ROTATION_ELEMENTS}",
                    "use fewer hashes, or factors of the buckets, e.g. `num_buckets` 32x32",
                )
        if self.feed_forward_size % self.feed_forward_slices:
            raise SpecError(
                "feed_forward_slices",
                self.feed_forward_slices,
                f"a divisor of the feed-forward size {self.feed_forward_size}",
                "choose a divisor",
            )
        if not isinstance(self.is_causal, bool):
            raise SpecError("is_causal", repr(self.is_causal), "true or false", MEND_CONFIG)
        if self.logits != "all" and (self.logits != "last" or self.task != "text-generation"):
            fix = "use `logits` last with text-generation only"
            raise SpecError("logits", self.logits, f"'all' for the task {self.task}", fix)
        self._check_positions()

    def _check_buckets(self) -> None:
        for layer in self.layers:
            if isinstance(layer, LSHAttentionSpec) and not layer.num_buckets:
                raise SpecError("num_buckets", "no factor", "one or more", "give N or AxB")

    def _check_positions(self) -> None:
        if not isinstance(self.positions, AxialPositionsSpec | LearnedPositionsSpec):
            raise SpecError("positions", type(self.positions).__name__, "axial or learned ones", MEND_CONFIG)
        if isinstance(self.positions, AxialPositionsSpec) and sum(self.positions.dims) != self.hidden_size:
            raise SpecError(
                "axial_pos_embds_dim",
                f"{list(self.positions.dims)}, which sum to {sum(self.positions.dims)}",
                f"the sum hidden_size = {self.hidden_size}",
                MEND_CONFIG,
            )
        self._check_lengths()

    def _check_lengths(self) -> None:
        if self.position_limit > MAX_POSITIONS:
            raise SpecError(
                "positions",
                self.position_limit,
                f"at most {MAX_POSITIONS}",
                "lower the limit with `max_length`",
            )
        if self.max_length < 1:
            raise SpecError(
                "positions",
                f"{self.position_limit} positions for chunks of {self.padding_threshold}",
                "room for at least one token",
                "enlarge max_position_embeddings or the axial shape",
            )

    @cached_property
    def padding_multiple(self) -> int:
        """Tokens: least common multiple of the layers' chunk lengths."""
        return math.lcm(*(layer.chunk_length for layer in self.layers))

    @cached_property
    def padding_threshold(self) -> int:
        """Tokens: sequences up to this length are never padded (the smallest chunk length)."""
        return min(layer.chunk_length for layer in self.layers)

    @property
    def position_limit(self) -> int:
        """Tokens: the greatest padded length that has positions."""
        return min(self.positions.num_positions, self.max_position_embeddings)

    @cached_property
    def max_length(self) -> int:
        """Tokens: the greatest length whose padded length has positions."""
        limit, multiple = self.position_limit, self.padding_multiple
        return max(min(limit, self.padding_threshold), limit // multiple * multiple)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What such a model can be for."""
        return TASKS

    @property
    def absent_sizes(self) -> tuple[str, ...]:
        """Fields that are 0, as the model has no such part."""
        return ()

    @property
    def takes_vectors(self) -> bool:
        """Whether a sequence is vectors of hidden_size numbers each, and not token ids."""
        return False

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph's inputs: the sequences, and their mask."""
        return VECTORS_INPUT if self.takes_vectors else IDS_INPUT, MASK_INPUT

    @property
    def output_names(self) -> tuple[str, ...]:
        return OUTPUT_NAMES[self.task]

    @property
    def lsh_layers(self) -> tuple[int, ...]:
        """Indices of the LSH layers."""
        return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer, LSHAttentionSpec))

    def rotations_shape(self, layer: int) -> tuple[int, int, int, int]:
        """[num_heads, head_size, num_hashes, sum(num_buckets) / 2] of an LSH layer."""
        attention = self.layers[layer]
        assert isinstance(attention, LSHAttentionSpec)
        return self.num_heads, self.head_size, attention.num_hashes, sum(attention.num_buckets) // 2

    @property
    def num_hash_heads(self) -> int:
        """Heads of an LSH layer that hash."""
        return self.num_heads

    def padded_length(self, length: int) -> int:
        """The length at which eager runs a sequence of `length` tokens."""
        return padded_length(length, self.padding_multiple, self.padding_threshold)

    def takes_length(self, length: int) -> bool:
        """Whether sequences of `length` tokens can be run."""
        return 1 <= length <= self.max_length

    @property
    def shortest(self) -> int:
        """Tokens: the least of the lengths that can be run."""
        return next(length for length in range(1, self.max_length + 1) if self.takes_length(length))

    def describe_lengths(self) -> str:
        """What `takes_length` takes, in words that follow "expected"."""
        return f"at most {self.max_length}"

    @property
    def hashes_masked_tokens(self) -> bool:
        """Whether masked and padded tokens get buckets by what they are, and not the last one."""
        return False

    @property
    def memory_layers(self) -> tuple[int, ...]:
        """Layers with a product-key memory in place of their feed-forward."""
        return ()

    def bucket_factors(self, layer: int, keys: int) -> tuple[int, ...]:
        """The factors of an LSH layer's bucket count for `keys` tokens that are hashed together."""
        attention = self.layers[layer]
        assert isinstance(attention, LSHAttentionSpec)
        return attention.num_buckets

    def is_hashed(self, layer: int, length: int) -> bool:
        """Whether `layer` hashes sequences of `length` tokens: an LSH layer that does not attend densely."""
        attention = self.layers[layer]
        return isinstance(attention, LSHAttentionSpec) and self.padded_length(length) > attention.chunk_length

    def hashes(self, length: int) -> bool:
        """Whether any layer hashes sequences of `length` tokens."""
        return any(self.is_hashed(layer, length) for layer in self.lsh_layers)
