"""The time a GPU cannot go below, for each kernel of an attention layer: bytes, operations, peaks.

`floor_seconds` is what a measured time is divided by. `python -m benchmarks.gpu_floor` prints the floors of
docs/gpu-performance.md; its registers and occupancy come from benchmarks/gpu_occupancy.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

DType = Literal["float32", "float16", "bfloat16"]

ELEMENT_BYTES: Final[dict[str, int]] = {"float32": 4, "float16": 2, "bfloat16": 2}
QUERY_ROWS: Final = 64
"""Queries a block of the attention kernel takes: each block reads its chunk's whole window."""

BLOCK_SORT_LENGTH: Final = 16384
"""Tokens up to which one block sorts a segment, in shared memory."""

BLOCK_SORT_DIGIT_BITS: Final = 10
LONG_SORT_DIGIT_BITS: Final = 11
"""Bits of a bucket that one pass of the sort takes, up to that many tokens and above."""

HASH_PRODUCTS: Final[dict[str, int]] = {"float32": 6, "float16": 2, "bfloat16": 3}
"""What a product with float32 rotations costs on tensor cores, in products of 16-bit elements.

float16 and bfloat16 rotations are the sum of two and three parts. float32 takes three products of TF32, whose
peak rate is half of float16's on every card.
"""

OWN_ROW_BYTES: Final = 256
"""Bytes of a head's row up to which an LSH block finds its queries among its keys (attention/tile.cuh)."""

FLOAT32_PRODUCTS: Final = 6
"""A float32 product is three of TF32, each of which takes as long as two of float16."""


@dataclass(frozen=True)
class GPU:
    """Peaks of one card: per second unless said otherwise, operations counted two per multiply-add.

    `tensor_flops` is the dense float16 rate with float32 accumulation; `mma_sync_share` is the part of it
    that mma.sync instructions can reach. `l2_bytes` is the L2 read rate, `l2_capacity` its size in bytes.
    `exp2` counts base-2 exponentials: 16 a clock and multiprocessor.
    """

    name: str
    tensor_flops: float
    mma_sync_share: float
    float32_flops: float
    dram_bytes: float
    l2_bytes: float
    l2_capacity: int
    exp2: float


# Rates: NVIDIA data sheets of the A100 (SXM, 80 GB: 2.039 TB/s; the 40 GB card has 1.555) and the H100 (SXM).
# L2: 5,120 bytes a clock (NVIDIA A100 white paper); taken to be the same a clock on the H100, which no data
# sheet states. Exponentials: CUDA programming guide, table of arithmetic throughput. mma.sync on Hopper:
# published measurements agree on 60 to 65 % of what wgmma reaches.
A100_SXM_40GB: Final = GPU(
    "A100-SXM 40 GB", 312e12, 1.0, 19.5e12, 1.555e12, 5120 * 1.41e9, 40 << 20, 16 * 108 * 1.41e9
)
A100_SXM_80GB: Final = GPU(
    "A100-SXM 80 GB", 312e12, 1.0, 19.5e12, 2.039e12, 5120 * 1.41e9, 40 << 20, 16 * 108 * 1.41e9
)
H100_SXM: Final = GPU("H100-SXM", 989e12, 0.62, 67e12, 3.35e12, 5120 * 1.83e9, 50 << 20, 16 * 132 * 1.83e9)
GPUS: Final = (A100_SXM_40GB, A100_SXM_80GB, H100_SXM)


@dataclass(frozen=True)
class AttentionShape:
    """One call of the layer's operators. Sizes in elements, lengths in tokens.

    `num_hashes` is 0 for local attention. `rotation_size` is S, half the sum of the bucket factors.
    """

    batch: int
    length: int
    heads: int
    head_size: int
    num_hashes: int
    chunk_length: int
    chunks_before: int = 1
    chunks_after: int = 0
    rotation_size: int = 0
    num_buckets: int = 0
    dtype: DType = "float16"

    def __post_init__(self) -> None:
        least = min(self.batch, self.length, self.heads, self.head_size, self.chunk_length)
        if least < 1 or min(self.num_hashes, self.chunks_before, self.chunks_after) < 0:
            raise ValueError(f"shape: got {self}, expected sizes >= 1 and counts >= 0; correct the shape")
        if self.num_hashes and (self.rotation_size < 1 or self.num_buckets < 2):
            raise ValueError(
                f"shape: got rotation_size {self.rotation_size} and num_buckets {self.num_buckets} with "
                f"num_hashes {self.num_hashes}, expected at least 1 and 2; give the layer's bucket factors"
            )

    @property
    def dense(self) -> bool:
        """Whether everything is one block: no hashing and no rounds."""
        return self.length <= self.chunk_length

    @property
    def rounds(self) -> int:
        """Rounds of attention."""
        return 1 if self.dense or not self.num_hashes else self.num_hashes

    @property
    def window(self) -> int:
        """Keys each query sees."""
        return self.length if self.dense else self.chunk_length * (self.chunks_before + 1 + self.chunks_after)

    @property
    def hidden_bytes(self) -> int:
        """Bytes of one tensor [B, L, H*D]."""
        return self.batch * self.length * self.heads * self.head_size * ELEMENT_BYTES[self.dtype]

    @property
    def rows(self) -> int:
        """Attention rows of all rounds: B * H * R * L."""
        return self.batch * self.heads * self.rounds * self.length


@dataclass(frozen=True)
class Work:
    """What one kernel must move and compute: bytes, and operations counted two per multiply-add."""

    dram_bytes: float = 0
    l2_bytes: float = 0
    tensor_flops: float = 0
    float32_flops: float = 0
    exp2: float = 0

    def limits(self, gpu: GPU) -> dict[str, float]:
        """Seconds each resource needs, were it the only one."""
        return {
            "DRAM": self.dram_bytes / gpu.dram_bytes,
            "L2": self.l2_bytes / gpu.l2_bytes,
            "tensor cores": self.tensor_flops / (gpu.tensor_flops * gpu.mma_sync_share),
            "float32": self.float32_flops / gpu.float32_flops,
            "exp2": self.exp2 / gpu.exp2,
        }


def hash_work(shape: AttentionShape) -> Work:
    """LSHBuckets: reads x and the rotations, writes int32 buckets. Hashes all rounds, dense or not.

    y = x . rotations: 2 * B * H * R * L * D * S on tensor cores, several times over: `HASH_PRODUCTS`.
    """
    rows = shape.batch * shape.heads * shape.num_hashes * shape.length
    rotations = 4 * shape.heads * shape.head_size * shape.num_hashes * shape.rotation_size
    moved = shape.hidden_bytes + rotations + 4 * rows
    flops = 2 * rows * shape.head_size * shape.rotation_size * HASH_PRODUCTS[shape.dtype]
    return Work(dram_bytes=moved, l2_bytes=moved, tensor_flops=flops)


def key_scale_work(shape: AttentionShape) -> Work:
    """Reads x, writes one float32 a token and head; a multiply-add an element."""
    moved = shape.hidden_bytes + 4 * shape.batch * shape.heads * shape.length
    flops = 2 * shape.batch * shape.heads * shape.length * shape.head_size
    return Work(dram_bytes=moved, l2_bytes=moved, float32_flops=flops)


def sort_work(shape: AttentionShape) -> Work:
    """Buckets in, positions out.

    A block that sorts a segment reads its buckets once a pass. Above that length a pass reads them twice
    (count, place) and writes the positions; passes after the first also read the positions twice.
    """
    bits = shape.num_buckets.bit_length()
    if shape.length <= BLOCK_SORT_LENGTH:
        passes = max(1, math.ceil(bits / BLOCK_SORT_DIGIT_BITS))
        return Work(dram_bytes=8 * shape.rows, l2_bytes=shape.rows * (passes * 4 + 4))
    passes = max(1, math.ceil(bits / LONG_SORT_DIGIT_BITS))
    l2_bytes = shape.rows * (passes * 12 + (passes - 1) * 8)
    return Work(dram_bytes=8 * shape.rows, l2_bytes=l2_bytes)


def attend_work(shape: AttentionShape, gpu: GPU) -> Work:
    """Every round gathers q, k and v through L2, where they stay if they fit; 2 products a query and key.

    A block's keys are read once for up to 64 queries. An LSH query is one of its block's keys: no read of its
    own. Written: rows of T, and with several rounds one float32 logsumexp a row.
    """
    query_rows = min(QUERY_ROWS, shape.length if shape.dense else shape.chunk_length)
    element = ELEMENT_BYTES[shape.dtype]
    tensors = (2 if shape.num_hashes else 3) * shape.hidden_bytes
    written = shape.rounds * shape.hidden_bytes + (4 * shape.rows if shape.rounds > 1 else 0)
    indices = 0 if shape.dense or not shape.num_hashes else 4 * shape.rows
    found = shape.num_hashes and shape.head_size * element <= OWN_ROW_BYTES
    own = 0 if found else shape.rounds * shape.hidden_bytes
    gathered = shape.rows / query_rows * shape.window * shape.head_size * element * 2
    reads = 1 if tensors <= gpu.l2_capacity else shape.rounds
    flops = 4 * shape.rows * shape.window * shape.head_size
    half = element == 2
    return Work(
        dram_bytes=tensors * reads + indices + written,
        l2_bytes=gathered + own + indices + written,
        tensor_flops=flops if half else flops * FLOAT32_PRODUCTS,
        exp2=shape.rows * shape.window,
    )


def combine_work(shape: AttentionShape) -> Work:
    """Reads every round's rows and logsumexp, writes the output."""
    moved = (shape.rounds + 1) * shape.hidden_bytes + 4 * shape.rows
    flops = 2 * shape.rows * shape.head_size
    exps = shape.rows * 2
    return Work(dram_bytes=moved, l2_bytes=moved, float32_flops=flops, exp2=exps)


def layer_work(shape: AttentionShape, gpu: GPU) -> dict[str, Work]:
    """The kernels one call of the layer's operators launches, in order. A dense layer still hashes."""
    work = {}
    if shape.num_hashes:
        work["hash"] = hash_work(shape)
        work["key_scale"] = key_scale_work(shape)
        if not shape.dense:
            work["sort"] = sort_work(shape)
    work["attend"] = attend_work(shape, gpu)
    if shape.rounds > 1:
        work["combine"] = combine_work(shape)
    return work


def floor_seconds(shape: AttentionShape, gpu: GPU) -> dict[str, float]:
    """Seconds no run of each kernel can go below: its scarcest resource at its peak rate.

    Launches (2 to 4 microseconds each) and the latency of a few thousand tokens are not in it. Tensors that a
    kernel finds in L2 because the one before wrote them there can beat the DRAM term at small sizes.
    """
    return {name: max(work.limits(gpu).values()) for name, work in layer_work(shape, gpu).items()}


LAYERS: Final = {
    "16,384 tokens, 4 hashes, float16": AttentionShape(1, 16384, 8, 64, 4, 64, 1, 0, 24, 512, "float16"),
    "16,384 tokens, 1 hash, float16": AttentionShape(1, 16384, 8, 64, 1, 64, 1, 0, 24, 512, "float16"),
    "16,384 tokens, 4 hashes, float32": AttentionShape(1, 16384, 8, 64, 4, 64, 1, 0, 24, 512, "float32"),
    "16,384 tokens, local, float16": AttentionShape(1, 16384, 8, 64, 0, 64, 1, 0, dtype="float16"),
}
"""The layers of docs/gpu-performance.md: 8 heads x 64, chunks of 64 and the one before, 16 x 32 buckets."""


def render_floors(shape: AttentionShape) -> list[str]:
    """A Markdown table: what each kernel moves and computes, and its floor in microseconds on each card."""
    names = [gpu.name for gpu in GPUS]
    lines = [
        f"| kernel | DRAM, MB | L2, MB | tensor GFLOP | float32 GFLOP | {' | '.join(names)} |",
        f"| --- |{' ---: |' * (4 + len(names))}",
    ]
    for kernel, work in layer_work(shape, H100_SXM).items():
        amounts = [work.dram_bytes / 1e6, work.l2_bytes / 1e6, work.tensor_flops / 1e9]
        cells = [f"{amount:.1f}" for amount in [*amounts, work.float32_flops / 1e9]]
        for gpu in GPUS:
            limits = layer_work(shape, gpu)[kernel].limits(gpu)
            limit = max(limits, key=lambda name: limits[name])
            cells.append(f"{limits[limit] * 1e6:.1f} ({limit})")
        lines.append(f"| {kernel} | {' | '.join(cells)} |")
    sums = [f"{sum(floor_seconds(shape, gpu).values()) * 1e6:.0f}" for gpu in GPUS]
    lines.append(f"| **layer** | | | | | {' | '.join(sums)} |")
    return lines


def main() -> None:
    """Prints every layer's table."""
    for title, shape in LAYERS.items():
        print(f"**{title}**\n", *render_floors(shape), "", sep="\n")


if __name__ == "__main__":
    main()
