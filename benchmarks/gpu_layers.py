"""One attention layer on a GPU, and who computes it: the shapes of `benchmarks.layers`, in any dtype."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_floor import AttentionShape, DType
from benchmarks.gpu_timing import Run, capture_run
from benchmarks.layers import (
    CHUNK,
    HASH_SEED,
    HEAD_SIZE,
    HEADS,
    LOCAL_RULES,
    LSH_RULES,
    WIDTH,
    Layer,
    draw_operands,
    make_huggingface_layer,
    split_heads,
)
from reformer_export.errors import RuntimeUnavailableError
from reformer_export.ops.lsh_buckets import draw_rotations
from reformer_export.ops.native_kernels import NativeKernels
from reformer_export.ops.torch_operator import cpu_kernels, cuda_kernels

DTYPES: Final[dict[str, torch.dtype]] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
TOLERANCES: Final = {"float32": 1e-4, "float16": 4e-3, "bfloat16": 4e-2}
"""Largest difference of the output: in float32 from transformers, in the other types from our own float32
kernels on the same numbers (transformers rounds every step to the type, its masks and logsumexp too)."""


@dataclass(frozen=True)
class GPULayer:
    """A layer in a dtype, on a torch device."""

    layer: Layer
    dtype: DType
    device: str = "cuda"

    @property
    def shape(self) -> AttentionShape:
        """As the model of the floor wants it."""
        lsh = self.layer.kind == "lsh"
        factors = self.layer.num_buckets if lsh else ()
        return AttentionShape(
            batch=1,
            length=self.layer.length,
            heads=HEADS,
            head_size=HEAD_SIZE,
            num_hashes=self.layer.num_hashes,
            chunk_length=CHUNK,
            rotation_size=sum(factors) // 2,
            num_buckets=math.prod(factors) if lsh else 0,
            dtype=self.dtype,
        )

    def operands(self) -> list[torch.Tensor]:
        """T [1, L, H*D]: query_key, value; or query, key, value of a local layer."""
        return [tensor.to(self.device, DTYPES[self.dtype]) for tensor in draw_operands(self.layer)]


class Ours:
    """The native kernels on the device: the whole layer, or one of its operators."""

    def __init__(self, gpu_layer: GPULayer) -> None:
        self.layer = layer = gpu_layer.layer
        self.kernels = require_kernels(gpu_layer.device)
        self.operands = gpu_layer.operands()
        self.mask = torch.ones(1, layer.length, dtype=torch.int32, device=gpu_layer.device)
        if layer.kind == "lsh":
            shape = (HEADS, HEAD_SIZE, layer.num_hashes, sum(layer.num_buckets) // 2)
            self.rotations = draw_rotations(HASH_SEED, shape).to(gpu_layer.device)
            self.buckets = self.hash_tokens()

    def __call__(self) -> torch.Tensor:
        """T [1, L, H*D]."""
        if self.layer.kind == "lsh":
            return self.attend(self.hash_tokens())
        query, key, value = self.operands
        return self.kernels.local_attention(query, key, value, self.mask, HEADS, *LOCAL_RULES)

    def hash_tokens(self) -> torch.Tensor:
        """LSHBuckets: int32 [1, H, R, L]."""
        return self.kernels.lsh_buckets(
            self.operands[0], self.rotations, self.mask, HEADS, self.layer.num_buckets
        )

    def attend(self, buckets: torch.Tensor | None = None) -> torch.Tensor:
        """LSHAttention in `buckets`, or in its own."""
        chosen = self.buckets if buckets is None else buckets
        query_key, value = self.operands
        return self.kernels.lsh_attention(query_key, value, chosen, self.mask, HEADS, *LSH_RULES)

    def parts(self) -> dict[str, Run]:
        """The layer, on a GPU its replay from a CUDA graph, and its operators where it has several."""
        parts: dict[str, Run] = {"ours": self}
        if self.mask.is_cuda:
            parts["ours: graph"] = capture_run(self)
        if self.layer.kind == "lsh":
            parts |= {"ours: hash": self.hash_tokens, "ours: attention": self.attend}
        return parts


def require_kernels(device: str) -> NativeKernels:
    """The library's kernels for a torch device, "cuda" or "cpu"."""
    kernels = cuda_kernels(0) if device == "cuda" else cpu_kernels()
    if kernels is None:
        raise RuntimeUnavailableError(
            f"native library: got none with kernels for {device}, expected one to time; build it with CUDA "
            "for this GPU (make gpu-check does)"
        )
    return kernels


def open_huggingface(gpu_layer: GPULayer) -> Run:
    """transformers' whole layer on ready projections, unpatched, in inference mode, without a mask."""
    operands = gpu_layer.operands()
    attention: Any = make_huggingface_layer(gpu_layer.layer, operands)
    attention.to(gpu_layer.device, DTYPES[gpu_layer.dtype])
    return torch.inference_mode()(lambda: attention(operands[0]))


def open_flash(gpu_layer: GPULayer) -> Run:
    """torch's fused causal attention: FlashAttention in the 16-bit types, the memory-efficient kernel in
    float32, which FlashAttention does not take."""
    backend = SDPBackend.EFFICIENT_ATTENTION if gpu_layer.dtype == "float32" else SDPBackend.FLASH_ATTENTION
    return _open_full(gpu_layer, [backend])


def open_cudnn(gpu_layer: GPULayer) -> Run:
    """cuDNN's fused causal attention, of the 16-bit types; torch refuses the call where its build has
    none, or cuDNN none for this card."""
    return _open_full(gpu_layer, [SDPBackend.CUDNN_ATTENTION])


def open_full(gpu_layer: GPULayer) -> Run:
    """Causal attention with all its logits in memory."""
    return _open_full(gpu_layer, [SDPBackend.MATH])


def _open_full(gpu_layer: GPULayer, backends: list[SDPBackend]) -> Run:
    *queries_keys, value = (split_heads(tensor) for tensor in gpu_layer.operands())
    query, key = queries_keys[0], queries_keys[-1]  # an LSH layer's keys are its queries

    @torch.inference_mode()
    def run() -> torch.Tensor:
        with sdpa_kernel(backends):
            return scaled_dot_product_attention(query, key, value, is_causal=True)

    return run


PEERS: Final[dict[str, Callable[[GPULayer], Run]]] = {
    "hf": open_huggingface,
    "flash": open_flash,
    "cudnn": open_cudnn,
    "full": open_full,
}


def estimate_bytes(peer: str, gpu_layer: GPULayer) -> int:
    """Roughly the extra memory of one run, to leave out what cannot fit."""
    layer = gpu_layer.layer
    if peer == "full":
        return 4 * 4 * HEADS * layer.length**2  # float32 logits, mask, probabilities, and a copy
    if peer == "hf":
        return 30_000 * layer.length * max(layer.num_hashes, 1)  # measured in float32 on the CPU
    return 8 * layer.length * WIDTH


def measure_difference(gpu_layer: GPULayer, ours: Ours, huggingface: Run) -> float:
    """The largest difference of our output from what `TOLERANCES` names, in the same buckets."""
    if gpu_layer.dtype != "float32":
        exact = Ours(gpu_layer)
        exact.operands = [operand.float() for operand in ours.operands]
        expected = exact() if ours.layer.kind == "local" else exact.attend()
        got = ours() if ours.layer.kind == "local" else ours.attend(exact.buckets)
        return float((got.float() - expected).abs().max())
    output = huggingface()
    if ours.layer.kind == "local":
        return float((ours() - output.hidden_states).abs().max())
    # transformers numbers the buckets of round r from r * count.
    count = math.prod(ours.layer.num_buckets)
    offsets = torch.arange(ours.layer.num_hashes, device=output.buckets.device).view(1, 1, -1, 1) * count
    buckets = (output.buckets - offsets).to(torch.int32)
    return float((ours.attend(buckets) - output.hidden_states).abs().max())
