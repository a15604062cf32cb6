"""Reading ptxas, and the arithmetic of occupancy."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.gpu_occupancy import (
    MULTIPROCESSORS,
    Launch,
    Usage,
    attention_bytes,
    hash_bytes,
    parse_ptxas,
    shorten,
)

ATTEND = (
    "_ZN8reformer4cuda12attend_chunkINS0_7float16ELi64EEEvNS0_18AttentionArgumentsIT_EENS0_13AttentionPlanE"
)
COUNT = "_ZN8reformer4cuda12_GLOBAL__N_112count_digitsENS0_13SortArgumentsEi"
PTXAS = f"""ptxas info    : Compiling entry function '{ATTEND}' for 'sm_80'
ptxas info    : Function properties for {ATTEND}
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 122 registers, used 1 barriers, 632 bytes cmem[0]
ptxas info    : Compile time = 1.000 ms
ptxas info    : Compiling entry function '{COUNT}' for 'sm_80'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 1 barriers
"""


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="needs c++filt to read kernel names")
def test_ptxas_output_is_read() -> None:
    attend, count = parse_ptxas(PTXAS)
    assert (shorten(attend.kernel), attend.registers, attend.spilled_bytes) == (
        "attend_chunk<float16, 64>",
        122,
        28,
    )
    assert count == Usage("count_digits(SortArguments, int)", 32, 0)


@pytest.mark.parametrize(
    ("launch", "registers", "arch", "expected"),
    [
        (Launch(128, 30_976), 122, "80", (4, "registers")),
        (Launch(128, 30_976), 122, "89", (3, "shared memory")),
        (Launch(256, 0), 24, "80", (8, "warps")),
        (Launch(32, 0), 16, "86", (16, "blocks")),
        (Launch(128, 0), 129, "80", (3, "registers")),  # rounded up to 136
        (
            Launch(64, 0),
            176,
            "80",
            (4, "registers"),
        ),  # each part has room for two warps
        (Launch(64, 30_976), 168, "75", (2, "shared memory")),
    ],
)
def test_blocks_of_a_multiprocessor(
    launch: Launch, registers: int, arch: str, expected: tuple[int, str]
) -> None:
    assert launch.blocks(registers, MULTIPROCESSORS[arch]) == expected


@pytest.mark.parametrize("element", [2, 4])
@pytest.mark.parametrize("head_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("lsh", [True, False])
def test_attention_fits_every_architecture(element: int, head_size: int, lsh: bool) -> None:
    assert attention_bytes(element, head_size, lsh, window=10_000) <= 64 * 1024


@pytest.mark.parametrize(("element", "parts"), [(2, 2), (2, 3), (4, 2)])
@pytest.mark.parametrize("head_size", [32, 64, 128, 256])
def test_hashing_needs_no_leave_for_its_memory(element: int, parts: int, head_size: int) -> None:
    assert 8 * 1024 < hash_bytes(element, parts, head_size) <= 48 * 1024
