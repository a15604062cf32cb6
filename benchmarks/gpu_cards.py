"""Peak rates of GPUs: from data sheets, or from what was measured in the session that is judged by them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True)
class GPU:
    """Peaks of one card: per second unless said otherwise, operations counted two per multiply-add.

    `tensor_flops` is the dense float16 rate with float32 accumulation; `mma_sync_share` is the part of it
    that mma.sync instructions can reach. `l2_bytes` is the L2 read rate, `l2_capacity` its size in bytes.
    `exp2` counts base-2 exponentials: 16 a clock and multiprocessor. Infinite where it is not known: that
    resource then bounds nothing.
    """

    name: str
    tensor_flops: float
    mma_sync_share: float
    float32_flops: float
    dram_bytes: float
    l2_bytes: float
    l2_capacity: float
    exp2: float

    @property
    def mma_flops(self) -> float:
        """float16 operations a second that the kernels can reach on tensor cores."""
        return self.tensor_flops * self.mma_sync_share


@dataclass(frozen=True)
class Ceilings:
    """What `gpu_timing.measure_ceilings` measures: bytes a second that a copy on the device reads and writes
    together, and operations a second of a float16 product of 8192 x 8192 x 8192 elements."""

    copy_bytes: float
    product_flops: float


# Rates: NVIDIA data sheets of the A100 (SXM, 80 GB: 2.039 TB/s; the 40 GB card has 1.555), the H100 and the
# H200 (SXM; but for memory the same chip). L2: 5,120 bytes a clock (NVIDIA A100 white paper); taken to be
# the same a clock on Hopper, which no data sheet states. Exponentials: CUDA programming guide, table of
# arithmetic throughput. mma.sync on Hopper: published measurements agree on 60 to 65 % of what wgmma reaches.
A100_SXM_40GB: Final = GPU(
    "A100-SXM 40 GB", 312e12, 1.0, 19.5e12, 1.555e12, 5120 * 1.41e9, 40 << 20, 16 * 108 * 1.41e9
)
A100_SXM_80GB: Final = GPU(
    "A100-SXM 80 GB", 312e12, 1.0, 19.5e12, 2.039e12, 5120 * 1.41e9, 40 << 20, 16 * 108 * 1.41e9
)
H100_SXM: Final = GPU("H100-SXM", 989e12, 0.62, 67e12, 3.35e12, 5120 * 1.83e9, 50 << 20, 16 * 132 * 1.83e9)
H200_SXM: Final = replace(H100_SXM, name="H200", dram_bytes=4.8e12)


def find_card(name: str, memory: int) -> GPU | None:
    """The model of the card that torch calls `name`, of `memory` bytes; None for a card without one."""
    if "H200" in name and "NVL" not in name:
        return H200_SXM
    if "H100" in name and "PCIe" not in name and "NVL" not in name:
        return H100_SXM
    if "A100" in name and "PCIE" not in name.upper():
        return A100_SXM_80GB if memory > 50e9 else A100_SXM_40GB
    return None


def card_from_ceilings(name: str, memory: int, ceilings: Ceilings) -> GPU:
    """The card as this session found it: measured memory and tensor rates, the rest of a known card's.

    mma.sync keeps the rate that it has by the data sheet, as far as the measured product allows.
    """
    known = find_card(name, memory)
    if known is None:
        unknown = math.inf
        return GPU(
            f"{name}, measured",
            ceilings.product_flops,
            1.0,
            unknown,
            ceilings.copy_bytes,
            unknown,
            unknown,
            unknown,
        )
    return replace(
        known,
        name=f"{known.name}, measured",
        dram_bytes=ceilings.copy_bytes,
        tensor_flops=ceilings.product_flops,
        mma_sync_share=min(1.0, known.mma_flops / ceilings.product_flops),
    )


H200_CEILINGS: Final = Ceilings(copy_bytes=4.26e12, product_flops=785e12)
"""Of the session of benchmarks/results/gpu-h200.json."""

H200_MEASURED: Final = card_from_ceilings("NVIDIA H200", 150 << 30, H200_CEILINGS)
GPUS: Final = (A100_SXM_40GB, A100_SXM_80GB, H100_SXM, H200_MEASURED)
