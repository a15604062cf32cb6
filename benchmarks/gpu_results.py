"""benchmarks/results/gpu-*.json: what one session on a GPU measured, written as it is measured.

Keys, all but `machine` absent until their part was measured:

    machine          the GPU, its driver, the host, versions, date
    code             which code ran, in words
    library          the operator library
    ceilings         `copy_bytes`, `product_flops` (gpu_cards.Ceilings)
    checks           lines about the tests of the same session
    missing          by part, what could not be measured and why
    layers           an entry a layer: `kind`, `tokens`, `num_hashes`, `dtype`, `seconds` (by contender, a
                     list of turns), `not_timed` (by contender, why), `extra_bytes` (by contender),
                     `floor_seconds` (by kernel), `difference`
    kernels          the same with `seconds` by kernel
    steps            `kind`, `tokens` with the new one, `batch`, `dtype`, `seconds` of one layer's step in a
                     graph and of the whole operator over one row, `difference`
    models           `model`, `tokens`, `dtype`, `seconds`, `not_timed`, `difference`
    session_kernels  `model`, `tokens`, `dtype`, `bound_seconds`, `total_seconds` of all kernels, and of the
                     slowest `kernels`, of one run: `name`, `calls`, `seconds`
    profiles         `layer`, `kernel`, `metrics`: of the profiler's pages, by name, with their units
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Data = Mapping[str, Any]


def load_results(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def update_results(path: Path, values: Data) -> None:
    """Put `values` into the file, which need not be there yet; `missing` is joined part by part. Whole or not
    at all, so that a run that is stopped leaves what was measured before."""
    data = load_results(path) if path.is_file() else {}
    missing = {**data.get("missing", {}), **values.get("missing", {})}
    data |= {**values, "missing": missing}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
