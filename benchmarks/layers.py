"""One causal attention layer, and who computes it: the operators only, on ready projections.

8 heads x 64, chunks of 64 tokens that see the chunk before, batch 1, float32. Each contender is opened once
and then runs the layer once per call.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import ReformerConfig
from transformers.models.reformer.modeling_reformer import LocalSelfAttention, LSHSelfAttention

from reformer_export.checkpoints.hashing import resolve_num_buckets
from reformer_export.contract import KEY_NORM_EPSILON, NO_SELF_LOGIT, SELF_LOGIT
from reformer_export.errors import RuntimeUnavailableError
from reformer_export.libraries.compiler import how_to_build
from reformer_export.ops.lsh_buckets import draw_rotations
from reformer_export.ops.native_kernels import NativeKernels
from reformer_export.ops.torch_operator import cpu_kernels

HEADS: Final = 8
HEAD_SIZE: Final = 64
WIDTH: Final = HEADS * HEAD_SIZE
CHUNK: Final = 64
MAX_POSITIONS: Final = 65536
HASH_SEED: Final = 0

# As the operators take it: chunk length, chunks before and after, causal, padding multiple and threshold.
CHUNKING: Final = (CHUNK, 1, 0, True, CHUNK, CHUNK)
LSH_RULES: Final = (*CHUNKING, KEY_NORM_EPSILON, SELF_LOGIT, CHUNK)
LOCAL_RULES: Final = (*CHUNKING, NO_SELF_LOGIT, True)


@dataclass(frozen=True)
class Layer:
    """A layer over `length` tokens, a multiple of 2 * CHUNK; `num_hashes` is 0 for a local one."""

    kind: Literal["lsh", "local"]
    length: int
    num_hashes: int

    def __post_init__(self) -> None:
        if self.length <= 0 or self.length % (2 * CHUNK) or (self.num_hashes > 0) != (self.kind == "lsh"):
            raise ValueError(
                f"layer: got {self}, expected a length that is a multiple of {2 * CHUNK}, and hashes for lsh "
                "only; choose another"
            )

    @property
    def num_buckets(self) -> tuple[int, ...]:
        """Factors of the bucket count, as transformers chooses them for this length."""
        return resolve_num_buckets(self.length, CHUNK, MAX_POSITIONS)

    @property
    def name(self) -> str:
        hashes = f", {self.num_hashes} hash{'es' * (self.num_hashes > 1)}" * (self.kind == "lsh")
        return f"{self.kind}, {self.length:,} tokens{hashes}"


def count_flops(layer: Layer) -> float:
    """Floating-point operations of the layer's matrix products, two per multiply-add.

    Attention: 2 products * 2 * L * R * 2C * D * H, no credit for the causal half; R = 1 in a local layer.
    Hashing: 2 * L * H * D * R * S with S = sum of the bucket factors / 2, in an LSH layer.
    """
    attention = 2 * 2 * layer.length * max(layer.num_hashes, 1) * 2 * CHUNK * HEAD_SIZE * HEADS
    rotations = layer.num_hashes * sum(layer.num_buckets) // 2
    return float(attention + 2 * layer.length * HEADS * HEAD_SIZE * rotations)


def draw_operands(layer: Layer) -> list[torch.Tensor]:
    """Seeded float32 [1, L, H*D]: query_key, value of an LSH layer; query, key, value of a local one."""
    generator = torch.Generator().manual_seed(layer.length)
    return [
        torch.randn(1, layer.length, WIDTH, generator=generator)
        for _ in range(2 if layer.kind == "lsh" else 3)
    ]


def split_heads(tensor: torch.Tensor) -> torch.Tensor:
    """[1, L, H*D] -> a view [1, H, L, D]."""
    return tensor.view(1, -1, HEADS, HEAD_SIZE).transpose(1, 2)


class Ours:
    """The native kernels through their C interface: LSHBuckets then LSHAttention, or LocalAttention."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.kernels = require_kernels()
        self.operands = draw_operands(layer)
        self.mask = torch.ones(1, layer.length, dtype=torch.int32)
        shape = (HEADS, HEAD_SIZE, layer.num_hashes, sum(layer.num_buckets) // 2)
        self.rotations = draw_rotations(HASH_SEED, shape)

    def __call__(self) -> torch.Tensor:
        """float32 [1, L, H*D]."""
        if self.layer.kind == "lsh":
            return self.attend(self.hash_tokens())
        query, key, value = self.operands
        return self.kernels.local_attention(query, key, value, self.mask, HEADS, *LOCAL_RULES)

    def hash_tokens(self) -> torch.Tensor:
        """int32 [1, H, R, L]."""
        query_key, _ = self.operands
        return self.kernels.lsh_buckets(query_key, self.rotations, self.mask, HEADS, self.layer.num_buckets)

    def attend(self, buckets: torch.Tensor) -> torch.Tensor:
        """LSHAttention in buckets int32 [1, H, R, L]: float32 [1, L, H*D]."""
        query_key, value = self.operands
        return self.kernels.lsh_attention(query_key, value, buckets, self.mask, HEADS, *LSH_RULES)


def require_kernels() -> NativeKernels:
    """The installed library's kernels."""
    kernels = cpu_kernels()
    if kernels is None:
        raise RuntimeUnavailableError(f"native library: got none, expected one to time; {how_to_build()}")
    return kernels


class _Ready(torch.nn.Module):
    """Stands in for a projection: returns the tensor [B, L, H*D] that it was given."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.tensor = tensor

    def forward(self, _hidden: torch.Tensor) -> torch.Tensor:
        return self.tensor


def open_huggingface(layer: Layer) -> Callable[[], Any]:
    """transformers' whole layer, unpatched, in inference mode, without a mask; returns its output tuple."""
    operands = draw_operands(layer)
    attention = make_huggingface_layer(layer, operands)
    return torch.inference_mode()(lambda: attention(operands[0]))


def make_huggingface_layer(layer: Layer, operands: list[torch.Tensor]) -> torch.nn.Module:
    """transformers' attention of this layer, with `operands` in place of its projections."""
    factors = layer.num_buckets
    config = ReformerConfig(
        attention_head_size=HEAD_SIZE,
        num_attention_heads=HEADS,
        hidden_size=WIDTH,
        num_hashes=max(layer.num_hashes, 1),
        num_buckets=factors[0] if len(factors) == 1 else list(factors),
        hash_seed=HASH_SEED,
        is_decoder=True,
        lsh_attn_chunk_length=CHUNK,
        local_attn_chunk_length=CHUNK,
        max_position_embeddings=MAX_POSITIONS,
        lsh_attention_probs_dropout_prob=0.0,
        local_attention_probs_dropout_prob=0.0,
    )
    attention = (LSHSelfAttention if layer.kind == "lsh" else LocalSelfAttention)(config, layer_idx=0).eval()
    names = ("query_key", "value") if layer.kind == "lsh" else ("query", "key", "value")
    for name, operand in zip(names, operands, strict=True):
        setattr(attention, name, _Ready(operand))
    return attention


def open_lucidrains(layer: Layer) -> Callable[[], Any]:
    """reformer-pytorch's LSHAttention, or its dependency's LocalAttention, with the same chunks."""
    operands = [split_heads(tensor)[0].contiguous() for tensor in draw_operands(layer)]
    if layer.kind == "lsh":
        from reformer_pytorch import LSHAttention

        attention: Any = LSHAttention(bucket_size=CHUNK, n_hashes=layer.num_hashes, causal=True)
    else:
        from local_attention import LocalAttention

        attention = LocalAttention(CHUNK, causal=True, use_rotary_pos_emb=False)
    attention.eval()
    return torch.inference_mode()(lambda: attention(*operands))


def open_full(layer: Layer) -> Callable[[], Any]:
    """torch's fused attention of every token to every earlier one; an LSH layer's keys are its queries."""
    *queries_keys, value = (split_heads(tensor) for tensor in draw_operands(layer))
    query, key = queries_keys[0], queries_keys[-1]
    return torch.inference_mode()(lambda: scaled_dot_product_attention(query, key, value, is_causal=True))


CONTENDERS: Final[dict[str, Callable[[Layer], Callable[[], Any]]]] = {
    "ours": Ours,
    "hf": open_huggingface,
    "lucidrains": open_lucidrains,
    "full": open_full,
}
PEERS: Final = ("hf", "lucidrains", "full")


def has_lucidrains() -> bool:
    """Whether reformer-pytorch can be imported; it is no dependency of this project."""
    return importlib.util.find_spec("reformer_pytorch") is not None


def estimate_bytes(contender: str, layer: Layer) -> int:
    """Roughly the extra memory of one run, to leave out what cannot fit."""
    rounds = layer.length * max(layer.num_hashes, 1)
    # Measured at 1,024 tokens and 8 hashes: 29 kB a token and round in either library.
    attention = 30_000 * rounds
    if contender == "hf":
        return attention
    if contender == "lucidrains":
        # One factor of L / C buckets: float32 scores for half of them, negatives, and both joined.
        return max(attention, 2 * 4 * rounds * HEADS * (layer.length // CHUNK))
    return 4 * layer.length * WIDTH


@dataclass(frozen=True)
class Agreement:
    """Ours against transformers: largest difference given its buckets, and the buckets that differ."""

    difference: float
    buckets_changed: int
    buckets: int

    OUTPUT_TOLERANCE: Final = 1e-4
    BUCKET_TOLERANCE: Final = 1e-4
    """Share of the buckets: near-ties of float32 sums in another order."""

    @property
    def holds(self) -> bool:
        changed = self.buckets_changed / max(self.buckets, 1)
        return self.difference <= self.OUTPUT_TOLERANCE and changed <= self.BUCKET_TOLERANCE


def compare_with_huggingface(ours: Ours, output: Any) -> Agreement:
    """`output` is what `open_huggingface` returned for the same layer."""
    layer = ours.layer
    if layer.kind == "local":
        return Agreement(float((ours() - output.hidden_states).abs().max()), 0, 0)
    # transformers numbers the buckets of round r from r * product of the factors.
    offsets = torch.arange(layer.num_hashes).view(1, 1, -1, 1) * math.prod(layer.num_buckets)
    buckets = (output.buckets - offsets).to(torch.int32)
    difference = float((ours.attend(buckets) - output.hidden_states).abs().max())
    return Agreement(difference, int((ours.hash_tokens() != buckets).sum()), buckets.numel())
