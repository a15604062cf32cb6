"""Cards with a floor: by name, and by what a session measured."""

from __future__ import annotations

import math

import pytest

from benchmarks.gpu_cards import (
    A100_SXM_40GB,
    A100_SXM_80GB,
    GPU,
    H100_SXM,
    H200_SXM,
    Ceilings,
    card_from_ceilings,
    find_card,
)
from benchmarks.gpu_floor import LAYERS, floor_seconds

MEASURED = Ceilings(copy_bytes=4.26e12, product_flops=785e12)


@pytest.mark.parametrize(
    ("name", "memory", "card"),
    [
        ("NVIDIA H200", 150e9, H200_SXM),
        ("NVIDIA H200 NVL", 150e9, None),
        ("NVIDIA H100 80GB HBM3", 85e9, H100_SXM),
        ("NVIDIA H100 PCIe", 85e9, None),
        ("NVIDIA A100-SXM4-40GB", 42e9, A100_SXM_40GB),
        ("NVIDIA A100-SXM4-80GB", 85e9, A100_SXM_80GB),
        ("NVIDIA A100-PCIE-40GB", 42e9, None),
        ("NVIDIA L4", 24e9, None),
    ],
)
def test_cards_by_their_names(name: str, memory: float, card: GPU | None) -> None:
    assert find_card(name, int(memory)) == card


def test_measured_rates_replace_the_data_sheet_s() -> None:
    card = card_from_ceilings("NVIDIA H200", int(150e9), MEASURED)
    assert (card.dram_bytes, card.tensor_flops) == (4.26e12, 785e12)
    assert card.mma_flops == pytest.approx(H200_SXM.mma_flops)
    assert (card.l2_bytes, card.float32_flops) == (H200_SXM.l2_bytes, H200_SXM.float32_flops)


def test_no_instruction_is_faster_than_the_measured_product() -> None:
    slow = card_from_ceilings("NVIDIA H200", int(150e9), Ceilings(4e12, 500e12))
    assert slow.mma_flops == 500e12


def test_a_card_that_nobody_has_modelled_has_a_floor_too() -> None:
    """Of memory and tensor cores, which were measured: lower than with all of its rates, never higher."""
    card = card_from_ceilings("NVIDIA L4", int(24e9), MEASURED)
    for shape in LAYERS.values():
        floors = floor_seconds(shape, card)
        modelled = floor_seconds(shape, card_from_ceilings("NVIDIA H200", int(150e9), MEASURED))
        assert all(math.isfinite(seconds) and seconds > 0 for seconds in floors.values())
        assert all(floors[kernel] <= modelled[kernel] for kernel in floors)
