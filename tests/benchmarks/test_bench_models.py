"""What the benchmark of whole models says, from made-up times: none of them was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.bench_models import Options, Result, write_report
from benchmarks.contenders import CONTENDERS
from benchmarks.report import describe_place, find_instructions
from reformer_export.measure.memory import Memory

XEON = "model name\t: A Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni amx_tile amx_int8\n"


def test_the_files_have_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    ours = (1.0, 2.0, 4.0)  # as the machine gets busy
    seconds = {"native": ours, "compiled-bfloat16": tuple(0.6 * each for each in ours)}
    differences = {"native": (2e-6, 1e-6), "compiled-bfloat16": (7e-2, 4e-3)}
    memory = {"native": Memory(10**8, 3 * 10**8, "resident")}
    result = Result("crime", 16384, 80e9, seconds, differences, memory)
    write_report(Options(tuple(seconds), 2, 3, 1.0, True, "try"), {"onnxruntime": 100.0}, [result])
    (found,) = json.loads((tmp_path / "try.json").read_text())["results"]
    assert found["contenders"]["compiled-bfloat16"]["median_of_ratios"] == pytest.approx(0.6)
    table = (tmp_path / "try.md").read_text()
    assert (
        "| crime | 16,384 | native | 2,000.0 | 1.00 (1.00 to 1.00) | 3 | 40% | 2e-06, 1e-06 | 200 |" in table
    )
    assert "| compiled-bfloat16 | 1,200.0 | 0.60 (0.60 to 0.60) | 3 | 67% | 7e-02, 4e-03 | - |" in table
    assert " cores)" in table.splitlines()[0]


def test_the_instructions_are_named() -> None:
    assert find_instructions(XEON) == ["AVX2", "AVX-512", "VNNI", "AMX"]
    assert find_instructions("") == []
    machine = {"cpu": "A Xeon", "cores": 2, "instructions": find_instructions(XEON)}
    assert describe_place(machine) == "A Xeon (2 cores), AVX2, AVX-512, VNNI, AMX"


def test_every_peer_is_there_in_both_types() -> None:
    peers = {(each.compiled, each.dtype) for each in CONTENDERS.values() if each.native is None}
    assert peers == {(compiled, dtype) for compiled in (False, True) for dtype in ("float32", "bfloat16")}
