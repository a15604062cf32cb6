"""LucidrainsSpec: the description of a model of the package reformer-pytorch (lucidrains).

A ModelSpec with other lengths, positions, norms and hashing; the names in backquotes are the package's own.
Every layer has the same geometry, with chunks of `bucket_size` tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, get_args

from reformer_export.errors import SpecError
from reformer_export.positions_spec import MEND_KEYWORDS as MEND
from reformer_export.positions_spec import (
    LucidrainsPositions,
    NoPositionsSpec,
    RotaryPositionsSpec,
    SinusoidalPositionsSpec,
    SummedAxialPositionsSpec,
    UnlimitedPositionsSpec,
)
from reformer_export.product_keys_spec import ProductKeysSpec
from reformer_export.spec import (
    LSHAttentionSpec,
    ModelSpec,
    Task,
    check_size,
)

__all__ = [
    "Architecture",
    "LucidrainsPositions",
    "LucidrainsSpec",
    "NoPositionsSpec",
    "NormKind",
    "RotaryPositionsSpec",
    "SinusoidalPositionsSpec",
    "SummedAxialPositionsSpec",
    "UnlimitedPositionsSpec",
]

NormKind = Literal["layer", "scale", "rezero", "none"]
Architecture = Literal["ReformerLM", "Reformer", "LSHSelfAttention"]

TASKS: Final[tuple[Task, ...]] = ("text-generation", "fill-mask", "feature-extraction")
"""Of a causal model with a head, of another one with a head, and of one without a head."""

_FLAGS: Final = (
    *("is_padded", "rotations_per_head", "has_one_value_head", "has_gated_feed_forward"),
    *("ties_layers", "ties_embedding"),
)


@dataclass(frozen=True, kw_only=True)
class LucidrainsSpec(ModelSpec):
    """A Reformer of reformer-pytorch for inference.

    `hidden_size` is `dim`, `max_position_embeddings` is `max_seq_len`, which limits the tokens that are
    given, and `positions` limits them with the padding. A layer with `use_full_attn` is one of local
    attention whose only chunk is longer than any sequence.

    Attributes:
        embedding_size: `emb_dim`.
        bucket_size: tokens; a sequence of n tokens has n / bucket_size buckets.
        is_padded: whether an Autopadder pads the sequence with id 0, masked, to a multiple of
            2 bucket_size; else only such lengths can be run.
        dense_threshold: `full_attn_thres`, up to which attention is full, without hashing and rotation.
        num_local_heads: `n_local_attn_heads`: the first heads attend to windows of 2 bucket_size.
        num_memory_keys: `num_mem_kv`: learned tokens that each layer attends to beside the sequence.
        rotations_per_head: whether each head has random rotations of its own.
        has_one_value_head: whether all heads share one value.
        has_gated_feed_forward: `ff_glu`.
        norm: of every layer's input: a layer norm; its length scaled; none, with the result scaled; or none.
        ties_layers: `weight_tie`: all layers have the same weights, norms aside.
        ties_embedding: `weight_tie_embedding`: the head's weights are the normalised word embeddings.
        architecture: the package's class: words, layers and head; the layers alone, which take vectors; or
            one layer's attention alone, which does too and has no feed-forward.
        product_keys: `pkm_layers`: layers with a memory in place of their feed-forward; None for none.
    """

    embedding_size: int
    bucket_size: int
    is_padded: bool
    dense_threshold: int = 0
    num_local_heads: int = 0
    num_memory_keys: int = 0
    rotations_per_head: bool = False
    has_one_value_head: bool = False
    has_gated_feed_forward: bool = False
    norm: NormKind = "layer"
    ties_layers: bool = False
    ties_embedding: bool = False
    architecture: Architecture = "ReformerLM"
    product_keys: ProductKeysSpec | None = None

    def __post_init__(self) -> None:
        check_size("emb_dim", self.embedding_size)
        check_size("bucket_size", self.bucket_size)
        check_size("full_attn_thres", self.dense_threshold, 0)
        check_size("n_local_attn_heads", self.num_local_heads, 0, self.num_heads - 1)
        check_size("num_mem_kv", self.num_memory_keys, 0)
        if self.task not in TASKS:
            raise SpecError("task", self.task, f"one of {', '.join(TASKS)}", "choose another `task`")
        for name, kinds in (("norm", get_args(NormKind)), ("architecture", get_args(Architecture))):
            if getattr(self, name) not in kinds:
                raise SpecError(name, repr(getattr(self, name)), f"one of {', '.join(kinds)}", MEND)
        if self.feed_forward_slices != 1:
            expected = "1 for a model of reformer-pytorch"
            fix = "leave `feed_forward_slices` out"
            raise SpecError("feed_forward_slices", self.feed_forward_slices, expected, fix)
        for name in _FLAGS:
            if not isinstance(getattr(self, name), bool):
                raise SpecError(name, repr(getattr(self, name)), "true or false", MEND)
        super().__post_init__()
        self._check_sizes_together()
        if max(self.memory_layers, default=0) >= len(self.layers):
            expected = f"at most {len(self.layers)} layers"
            raise SpecError("pkm_layers", f"layer {self.memory_layers[-1] + 1}", expected, MEND)
        self._check_parts()

    def _check_sizes_together(self) -> None:
        if self.num_local_heads and self.num_memory_keys % self.padding_multiple:
            raise SpecError(
                "num_mem_kv",
                f"{self.num_memory_keys} beside n_local_attn_heads {self.num_local_heads}",
                f"a multiple of 2 bucket_size = {self.padding_multiple}, as reformer-pytorch asserts",
                MEND,
            )
        if isinstance(self.positions, RotaryPositionsSpec) and self.head_size % 2:
            raise SpecError("dim_head", self.head_size, "an even number, for rotary positions", MEND)
        if isinstance(self.positions, SinusoidalPositionsSpec) and self.embedding_size % 2:
            raise SpecError("emb_dim", self.embedding_size, "an even number, for fixed positions", MEND)

    def _check_parts(self) -> None:
        """SpecError where there is a part that the architecture does not have, or one is missing."""
        is_vectors, is_alone = self.takes_vectors, self.architecture == "LSHSelfAttention"
        wrong = [name for name in self.absent_sizes if getattr(self, name) != 0]
        wrong += ["positions"] * (isinstance(self.positions, NoPositionsSpec) != is_vectors)
        wrong += ["norm"] * ((self.norm == "none") != is_alone)
        wrong += ["layers"] * (is_alone and len(self.layers) > 1)
        wrong += ["product_keys"] * (is_alone and self.product_keys is not None)
        wrong += ["task"] * (is_vectors and self.task != "feature-extraction")
        wrong += ["embedding_size"] * (is_vectors and self.embedding_size != self.hidden_size)
        if wrong:
            got = f"{getattr(self, wrong[0])!r:.80}"
            raise SpecError(wrong[0], got, f"what the class {self.architecture} has", MEND)

    def _check_buckets(self) -> None:
        for layer in self.layers:
            if isinstance(layer, LSHAttentionSpec) and layer.num_buckets:
                expected = "none, as their number grows with the length in reformer-pytorch"
                raise SpecError("num_buckets", layer.num_buckets, expected, "leave `num_buckets` out")

    def _check_positions(self) -> None:
        if not isinstance(self.positions, LucidrainsPositions):
            raise SpecError("positions", type(self.positions).__name__, "a kind of reformer-pytorch", MEND)
        self._check_lengths()

    @property
    def takes_vectors(self) -> bool:
        return self.architecture != "ReformerLM"

    @property
    def absent_sizes(self) -> tuple[str, ...]:
        count = {"ReformerLM": 0, "Reformer": 1, "LSHSelfAttention": 2}[self.architecture]
        return ("vocab_size", "feed_forward_size")[:count]

    @cached_property
    def padding_multiple(self) -> int:
        """Tokens: what sequences and learned keys together are a multiple of where they are hashed."""
        return 2 * self.bucket_size

    @cached_property
    def padding_threshold(self) -> int:
        """Tokens: sequences up to this length attend densely, and are never padded."""
        return max(self.dense_threshold - self.num_memory_keys, 0)

    @property
    def position_limit(self) -> int:
        """Tokens: the greatest padded length that has positions."""
        if isinstance(self.positions, UnlimitedPositionsSpec):
            return self._pad(self.positions.num_positions)
        return self.positions.num_positions

    @cached_property
    def max_length(self) -> int:
        """Tokens: the greatest length, with its padding within the positions."""
        limit, keys = self.position_limit, self.num_memory_keys
        padded = max(min(limit, self.padding_threshold), self._round_down(limit + keys) - keys)
        longest = min(padded, self.max_position_embeddings)
        if self._fits(longest):
            return longest
        return max(self._round_down(longest + keys) - keys, min(longest, self._longest_dense))

    @property
    def longest_attended(self) -> int:
        """Tokens and learned keys that the longest sequence attends to, with its padding."""
        return self.padded_length(self.max_length) + self.num_memory_keys

    @property
    def memory_layers(self) -> tuple[int, ...]:
        return () if self.product_keys is None else self.product_keys.layers

    @property
    def num_hash_heads(self) -> int:
        return self.num_heads - self.num_local_heads

    @property
    def unturned_keys(self) -> int:
        """Tokens whose keys decoding needs as they are before they are turned: those of sequences that attend
        densely, which turn none."""
        is_rotary = isinstance(self.positions, RotaryPositionsSpec)
        hashes = any(isinstance(layer, LSHAttentionSpec) for layer in self.layers)
        return min(self.dense_threshold, self.longest_attended) if is_rotary and hashes else 0

    def rotations_shape(self, layer: int) -> tuple[int, int, int, int]:
        """[num_hash_heads or 1, head_size, num_hashes, buckets of the longest sequence / 2]; a shorter
        sequence of n buckets uses the first n / 2 of the last axis."""
        attention = self.layers[layer]
        assert isinstance(attention, LSHAttentionSpec)
        heads = self.num_hash_heads if self.rotations_per_head else 1
        most = -(-self.longest_attended // self.padding_multiple)
        return heads, self.head_size, attention.num_hashes, most

    def padded_length(self, length: int) -> int:
        """The length at which reformer-pytorch runs a sequence of `length` tokens."""
        return self._pad(length) if self.is_padded and length > self.padding_threshold else length

    @property
    def pads_dense_lengths(self) -> bool:
        """Whether padding may reach below the threshold, where reformer-pytorch does not pad: padded tokens
        are masked, so that it changes nothing where attention is dense, unless it passes the threshold or the
        positions. A graph whose padding has no threshold is simpler."""
        fits = self._pad(self.max_length) <= self.position_limit
        return fits and self.dense_threshold % self.padding_multiple == 0

    def _pad(self, length: int) -> int:
        multiple, keys = self.padding_multiple, self.num_memory_keys
        return -(-(length + keys) // multiple) * multiple - keys

    def _round_down(self, length: int) -> int:
        return length // self.padding_multiple * self.padding_multiple

    @property
    def _longest_dense(self) -> int:
        """Tokens: the greatest length that attends densely and need be no multiple; local heads are asserted
        to get one."""
        return 0 if self.num_local_heads else self.padding_threshold

    def _fits(self, length: int) -> bool:
        """Whether a length up to the limit can be run: one that an Autopadder pads, or that needs no
        padding."""
        is_padded = self.is_padded and length > self.padding_threshold
        return is_padded or length <= self._longest_dense or self._pad(length) == length

    def takes_length(self, length: int) -> bool:
        return super().takes_length(length) and self._fits(length)

    def describe_lengths(self) -> str:
        multiple = f"multiples of 2 x bucket_size = {self.padding_multiple}"
        if self.num_memory_keys:
            multiple += f", less num_mem_kv = {self.num_memory_keys},"
        if self._fits(1) and self._fits(self.padding_threshold + 1):
            return super().describe_lengths()
        if not self.is_padded:
            dense = f"up to {self._longest_dense}, or " if self._longest_dense else ""
            return f"{dense}{multiple} up to {self.max_length}, as no Autopadder pads this model"
        return f"{multiple} up to full_attn_thres = {self.dense_threshold}, for local heads, or a longer one"

    @property
    def hashes_masked_tokens(self) -> bool:
        return True

    def bucket_factors(self, layer: int, keys: int) -> tuple[int, ...]:
        return (2 * -(-keys // self.padding_multiple),)

    def keys_in_graph(self, length: int) -> int:
        """Tokens and learned keys that a layer of the graph attends to for `length` tokens."""
        if self.is_padded and self.pads_dense_lengths:
            return self._pad(length) + self.num_memory_keys
        return self.padded_length(length) + self.num_memory_keys

    def is_hashed(self, layer: int, length: int) -> bool:
        return isinstance(self.layers[layer], LSHAttentionSpec) and length > self.padding_threshold
