"""The model behind docs/gpu-performance.md: known amounts of work, and a page that agrees with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu_cards import GPUS, H100_SXM
from benchmarks.gpu_floor import (
    LAYERS,
    AttentionShape,
    attend_work,
    floor_seconds,
    hash_work,
    layer_work,
    render_floors,
    sort_work,
)

PAGE = Path(__file__).parents[2] / "docs" / "gpu-performance.md"
SHAPE = AttentionShape(1, 16384, 8, 64, 4, 64, rotation_size=24, num_buckets=512)
TENSOR = 16384 * 8 * 64 * 2  # bytes


def test_attention_counts_what_it_must() -> None:
    work = attend_work(SHAPE, H100_SXM)
    rows = 8 * 4 * 16384
    assert work.tensor_flops == 4 * rows * 64 * 128
    assert work.exp2 == rows * 128
    assert work.dram_bytes == 2 * TENSOR + 4 * TENSOR + 8 * rows
    assert work.l2_bytes == 4 * TENSOR * (2 * 128 // 64) + 4 * TENSOR + 8 * rows


def test_tensors_beyond_l2_are_read_every_round() -> None:
    one = attend_work(replace(SHAPE, num_hashes=1), H100_SXM).dram_bytes
    long = replace(SHAPE, length=65536)
    rows = 8 * 4 * 65536
    assert attend_work(long, H100_SXM).dram_bytes == 4 * (2 + 1) * 4 * TENSOR + 8 * rows
    assert one == 3 * TENSOR + 4 * 8 * 16384


def test_hashing_multiplies_on_tensor_cores() -> None:
    products = 2 * 8 * 4 * 16384 * 64 * 24
    for dtype, times in (("float16", 2), ("bfloat16", 3), ("float32", 6)):
        work = hash_work(replace(SHAPE, dtype=dtype))  # type: ignore[arg-type]
        assert (work.tensor_flops, work.float32_flops) == (times * products, 0)


def test_sorting_reads_what_it_must() -> None:
    rows = 8 * 4 * 16384
    assert sort_work(SHAPE).l2_bytes == 8 * rows
    assert sort_work(replace(SHAPE, num_buckets=1024)).l2_bytes == 12 * rows  # 11 bits
    assert sort_work(replace(SHAPE, length=65536)).l2_bytes == 4 * 12 * rows
    assert sort_work(replace(SHAPE, length=65536, num_buckets=2048)).l2_bytes == 4 * 32 * rows


@pytest.mark.parametrize(
    ("shape", "kernels"),
    [
        (SHAPE, ["hash", "key_scale", "sort", "attend", "combine"]),
        (replace(SHAPE, num_hashes=1), ["hash", "key_scale", "sort", "attend"]),
        (replace(SHAPE, length=64), ["hash", "key_scale", "attend"]),
        (replace(SHAPE, num_hashes=0), ["attend"]),
    ],
)
def test_kernels_of_a_layer(shape: AttentionShape, kernels: list[str]) -> None:
    assert list(layer_work(shape, H100_SXM)) == kernels


def test_floor_is_the_scarcest_resource() -> None:
    for gpu in GPUS:
        floors = floor_seconds(SHAPE, gpu)
        for kernel, work in layer_work(SHAPE, gpu).items():
            assert floors[kernel] == max(work.limits(gpu).values()) > 0


@pytest.mark.parametrize("change", [{"length": 0}, {"chunks_before": -1}, {"rotation_size": 0}])
def test_impossible_shapes_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(SHAPE, **change)


def test_page_has_the_tables() -> None:
    page = PAGE.read_text()
    for title, shape in LAYERS.items():
        table = "\n".join([f"**{title}**", "", *render_floors(shape)])
        assert table in page, (
            f"docs/gpu-performance.md: paste what python -m benchmarks.gpu_floor prints ({title})"
        )
