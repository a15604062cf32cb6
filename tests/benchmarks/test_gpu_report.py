"""The page of GPU results, from made-up numbers: none of them was measured."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_report import render
from benchmarks.gpu_results import load_results
from benchmarks.gpu_targets import ROWS, judge_ratios, judge_rows

ROOT = Path(__file__).parents[2]
LAYER = {
    "kind": "lsh",
    "tokens": 16384,
    "num_hashes": 4,
    "dtype": "float16",
    "seconds": {
        "ours": [1.0e-3, 1.2e-3, 1.1e-3],
        "ours: hash": [0.2e-3],
        "ours: attention": [0.9e-3],
        "hf": [12e-3, 13e-3, 14e-3],
        "flash": [2.2e-3],
    },
    "not_timed": {"full": "needs 99 GB"},
    "extra_bytes": {"ours": 50_000_000, "hf": 900_000_000},
    "floor_seconds": {"hash": 0.1e-3, "attend": 0.4e-3},
    "difference": 1e-3,
}
MODEL = {
    "model": "crime",
    "dtype": "float16",
    "tokens": 16384,
    "seconds": {"eager": [0.050], "onnxruntime-native": [0.010], "onnxruntime-bodies": [0.001]},
    "not_timed": {"tensorrt": "not installed", "tensorrt-rtx": "not installed"},
    "difference": 2e-3,
}
STEP = {
    "kind": "lsh",
    "tokens": 16384,
    "batch": 64,
    "dtype": "float16",
    "seconds": {"graph": [16e-6], "whole, one row": [70e-6]},
    "difference": 1e-3,
}


def layer(tokens, num_hashes, **seconds):
    made = copy.deepcopy(LAYER)
    made.update(tokens=tokens, num_hashes=num_hashes)
    made["seconds"].update(seconds)
    return made


@pytest.fixture
def data():
    return {
        "machine": {
            "gpu": "Made-up H100",
            "compute_capability": "9.0",
            "memory_bytes": 80 * 2**30,
            "driver": "1.2.3",
            "cuda": "13.0",
            "cpu": "Made-up CPU",
            "cores": 16,
            "date": "2000-01-01",
            "versions": {"torch": "2.9"},
        },
        "library": "0.1.0 (ABI 2, none, CUDA 90)",
        "checks": ["tests: 3 passed", "missing: compute-sanitizer memcheck"],
        "missing": {"models": ["enwik8, float16: no memory"], "layers": []},
        "layers": [layer(8192, 1), layer(16384, 1), layer(16384, 4)],
        "kernels": [
            {**LAYER, "seconds": {"attend_kernel": 0.5e-3}},
            {**LAYER, "kind": "local", "num_hashes": 0, "seconds": {}, "floor_seconds": None},
        ],
        "steps": [copy.deepcopy(STEP)],
        "models": [copy.deepcopy(MODEL)],
        "ceilings": {"copy_bytes": 4.26e12, "product_flops": 785e12},
        "profiles": [
            {
                "layer": "one layer",
                "kernel": "attend",
                "metrics": {"Duration": "122.78 us", "Registers Per Thread": "124 register/thread"},
            }
        ],
        "session_kernels": [
            {
                "model": "crime",
                "dtype": "float16",
                "tokens": 16384,
                "bound_seconds": 1.2e-3,
                "total_seconds": 1e-3,
                "kernels": [{"name": "nvjet", "calls": 12, "seconds": 0.75e-3}],
            }
        ],
    }


def verdicts(data):
    return [row["verdict"] for row in judge_ratios(data)]


def test_the_page_shows_what_the_numbers_say(data):
    page = render(data)
    assert "Made-up H100 (compute capability 9.0, 80 GiB), driver 1.2.3, CUDA 13.0" in page
    row = next(line for line in page.splitlines() if line.startswith("| lsh | float16 | 16,384 | 4 |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    head = next(line for line in page.splitlines() if line.startswith("| layer |"))
    shown = dict(zip([cell.strip() for cell in head.strip("|").split("|")], cells, strict=True))
    assert (shown["ours us"], shown["x HF eager"], shown["x floor"]) == ("1,100.0", "11.82", "2.20")
    assert shown["full attention us"] == "needs 99 GB"
    assert shown["ours MB"] == "50.0"
    assert not {"x full attention", "flash attention MB", "cuDNN attention us"} & set(shown), (
        "nothing in them"
    )
    assert "| attend_kernel | 500.0 |" in page
    assert "| crime | float16 | 16,384 | 50.00 | 1.00 | 50.00 | 10.00 | 5.00 | not installed |" in page
    assert "| lsh | float16 | 16,384 | 64 | 16.0 | 4,000,000 | 70.0 | 1e-03 |" in page
    assert "Measured ceilings: device copy 4.26 TB/s (read and written), float16 product 785 TFLOP/s." in page
    assert "| one layer | `attend` | 122.78 us | 124 |" in page
    assert "| `nvjet` | 12 | 750.0 | 75.0% |" in page
    assert "| **all** |  | 1,000.0 |  |" in page
    assert "- enwik8, float16: no memory" in page
    assert "- missing: compute-sanitizer memcheck" in page


def test_what_was_reached(data):
    assert verdicts(data) == ["reached"] * 4


@pytest.mark.parametrize(
    ("target", "change"),
    [
        (0, lambda data: data["layers"][2]["seconds"].update(hf=[10.9e-3])),
        (1, lambda data: data["layers"][2].update(floor_seconds={"attend": 0.43e-3})),
        (2, lambda data: data["layers"][0]["seconds"].update(flash=[1.0e-3])),
        (2, lambda data: data["layers"].append(layer(65536, 4, flash=[1.0e-3]))),
        (3, lambda data: data["models"][0]["seconds"].update(eager=[0.049])),
        (
            3,
            lambda data: data["models"].append(
                {**MODEL, "tokens": 4096, "seconds": {"eager": [0.01], "tensorrt": [0.01]}}
            ),
        ),
    ],
)
def test_one_target_missed(data, target, change):
    change(data)
    assert verdicts(data) == ["reached"] * target + ["not reached"] + ["reached"] * (3 - target)


def test_what_was_not_measured_is_no_verdict(data):
    del data["layers"][0]["seconds"]["flash"]
    data["layers"][2]["floor_seconds"] = None
    data["models"][0]["seconds"] = {"eager": [0.05]}
    assert verdicts(data) == ["reached", "not measured", "not measured", "not measured"]
    data["layers"], data["models"], data["kernels"], data["missing"] = [], [], [], {}
    assert verdicts(data) == ["not measured"] * 4
    assert render(data).count("Nothing was measured.") == 2


def test_another_dtype_or_card_is_not_the_one_that_was_asked_for(data):
    for entry in (*data["layers"], *data["models"]):
        entry["dtype"] = "bfloat16"
    assert verdicts(data) == ["not measured"] * 4
    data["machine"]["gpu"] = "Made-up A100"
    assert verdicts(data) == ["not measured (asked of an H100)"] * 4


def test_the_page_is_written_from_the_file_alone(data, tmp_path):
    (tmp_path / "made-up.json").write_text(json.dumps(data))
    command = [sys.executable, "-m", "benchmarks.gpu_report", "made-up.json", "page.md"]
    root = pytest.importorskip("reformer_export").__file__.rpartition("/reformer_export/")[0]
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root}, check=True)
    assert (tmp_path / "page.md").read_text() == render(data, "made-up.json")


def test_times_to_reach(data):
    """Rows of other layers and dtypes stay open."""
    data["layers"][2]["seconds"]["ours: graph"] = [150e-6, 149e-6, 151e-6]
    data["layers"][1]["seconds"]["ours: graph"] = [60.1e-6]
    rows = judge_rows(data)
    assert [row["verdict"] for row in rows] == [
        "reached",
        "not reached",
        *["not measured"] * 5,
        "not reached",
    ]
    assert [rows[i]["measured"] for i in (0, 1, 2, 7)] == ["150 us", "60 us", "-", "10 ms"]
    data["models"][0]["dtype"] = "float32 (TF32)"
    assert judge_rows(data)[7]["verdict"] == "not measured"
    assert len(rows) == len(ROWS) == 8


def test_a_session_that_measured_little_has_a_page_too(data):
    page = render({"machine": data["machine"], "checks": ["tests: 3 passed"]})
    assert page.count("Nothing was measured.") == 2
    assert "- tests: 3 passed" in page


def test_the_page_in_docs_is_made_from_its_file():
    page = (ROOT / "docs" / "gpu-results.md").read_text()
    source = re.search(r"Made from `(benchmarks/results/gpu-[\w-]+\.json)`", page)[1]
    assert page == render(load_results(ROOT / source), source), (
        f"docs/gpu-results.md: run python -m benchmarks.gpu_report {source} docs/gpu-results.md"
    )
