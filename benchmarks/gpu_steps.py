"""One new token of every row against its cache on a GPU: a layer's step, at the crime shape.

2 heads of 64, chunks of 64 tokens, 1 hash, buckets of 64 x 128, caches in place. A step is that of one of
LAYERS layers with caches of their own, one after another in one CUDA graph, as a model has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import torch

from benchmarks.gpu_layers import DTYPES, require_kernels
from benchmarks.gpu_timing import capture_run, time_in_turns
from benchmarks.layers import CHUNK, LOCAL_RULES, LSH_RULES

LAYERS: Final = 6
HEADS: Final = 2
HEAD_SIZE: Final = 64
BUCKETS: Final = 64 * 128
TOLERANCES: Final = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
"""Of the operators' tests: the whole operator rounds its weights to the type."""

CONTEXTS: Final = (16384, 1024, 65536)
BATCHES: Final = (1, 64)

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class StepLayer:
    """`tokens`: with the new one."""

    kind: Literal["lsh", "local"]
    tokens: int
    batch: int
    dtype: str

    @property
    def name(self) -> str:
        return f"{self.kind} step, {self.tokens:,} tokens, batch {self.batch}, {self.dtype}"


def list_steps(contexts: list[int], batches: list[int], dtypes: list[str]) -> Iterator[StepLayer]:
    """A local step is as long in every context: it is asked for one."""
    for dtype in dtypes:
        for batch in batches:
            for index, tokens in enumerate(contexts):
                yield StepLayer("lsh", tokens, batch, dtype)
                if index == 0:
                    yield StepLayer("local", tokens, batch, dtype)


class Steps:
    """A layer's step, LAYERS times."""

    def __init__(self, layer: StepLayer, device: str = "cuda") -> None:
        self.layer = layer
        self.kernels = require_kernels(device)
        self.generator = torch.Generator(device).manual_seed(0)
        shape = (layer.batch,)
        self.lengths = torch.full(shape, layer.tokens - 1, dtype=torch.int32, device=device)
        self.new_lengths = torch.ones_like(self.lengths)
        self.sequences = [self._draw() for _ in range(LAYERS)]
        self.inputs = [self._cut(sequence) for sequence in self.sequences]

    def __call__(self) -> Tensors:
        """T [B, 1, H*D] of each layer."""
        lengths = (self.lengths, self.new_lengths)
        if self.layer.kind == "lsh":
            run, rules = self.kernels.lsh_attention_step, LSH_RULES
        else:
            run, rules = self.kernels.local_attention_step, LOCAL_RULES
        return [run(*inputs, *lengths, HEADS, *rules, in_place=True)[0] for inputs in self.inputs]

    def attend_whole(self) -> torch.Tensor:
        """T [1, L, H*D]: the whole operator over the first row of the first layer."""
        tensors = [tensor[:1] for tensor in self.sequences[0]]
        mask = torch.ones(tensors[0].shape[:2], dtype=torch.int32, device=tensors[0].device)
        if self.layer.kind == "lsh":
            return self.kernels.lsh_attention(*tensors, mask, HEADS, *LSH_RULES)
        return self.kernels.local_attention(*tensors, mask, HEADS, *LOCAL_RULES)

    def measure_difference(self) -> float:
        """The largest difference of the first row's output from the whole operator's last."""
        got, expected = self()[0][:1], self.attend_whole()[:, -1:]
        return float((got.float() - expected.float()).abs().max())

    def _draw(self) -> Tensors:
        """query_key, value T [B, L, H*D], buckets [B, H, 1, L]; or query, key, value."""
        layer, options = self.layer, {"device": self.lengths.device, "generator": self.generator}
        shape = (layer.batch, layer.tokens, HEADS * HEAD_SIZE)
        count = 2 if layer.kind == "lsh" else 3
        tensors = [torch.randn(shape, dtype=DTYPES[layer.dtype], **options) for _ in range(count)]
        if layer.kind == "lsh":
            hashed = (layer.batch, HEADS, 1, layer.tokens)
            tensors.append(torch.randint(0, BUCKETS, hashed, dtype=torch.int32, **options))
        return tensors

    def _cut(self, sequence: Tensors) -> Tensors:
        """The new tokens, and the caches: of LSH the sequence itself, whose last token is written again."""
        if self.layer.kind == "lsh":
            query_key, value, buckets = sequence
            new = [query_key[:, -1:], value[:, -1:], buckets[..., -1:]]
            return [*(tensor.clone() for tensor in new), *sequence]
        ring = 2 * CHUNK
        held = torch.arange(self.layer.tokens - 1, device=self.lengths.device)[-ring:]
        shape = (self.layer.batch, ring, HEADS * HEAD_SIZE)
        caches = [tensor.new_zeros(shape) for tensor in sequence[1:]]
        for cache, tensor in zip(caches, sequence[1:], strict=True):
            cache[:, held % ring] = tensor[:, held]
        return [*(tensor[:, -1:].clone() for tensor in sequence), *caches]


def bench_step(layer: StepLayer, turns: int) -> dict[str, Any]:
    """One entry of `steps`; `seconds` are of one layer. ValueError when its output is wrong."""
    torch.cuda.empty_cache()
    steps = Steps(layer)
    difference = steps.measure_difference()
    if not difference <= TOLERANCES[layer.dtype]:
        raise ValueError(
            f"{layer.name}: got a difference of {difference:.1e} from the whole operator, expected at most "
            f"{TOLERANCES[layer.dtype]:.0e}; run the tests marked gpu"
        )
    seconds = time_in_turns({"graph": capture_run(steps), "whole, one row": steps.attend_whole}, turns)
    seconds["graph"] = [total / LAYERS for total in seconds["graph"]]
    return {**asdict(layer), "seconds": seconds, "difference": difference}
