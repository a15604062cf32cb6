from __future__ import annotations

from pathlib import Path

import numpy as np

from reformer_export.artifact.manifest import MODEL_NAME
from reformer_export.measure.node_times import (
    KernelRun,
    OperatorTime,
    measure_node_times,
    profile_model,
    rank_operators,
)
from reformer_export.runtimes.ort_session import Placement
from tests.runtimes.artifacts import make_manifest, make_spec, write_artifact


def test_operators_are_ranked_by_their_time() -> None:
    runs = [KernelRun("a", "Add", "", 1.0), KernelRun("b", "Mul", "", 3.0), KernelRun("c", "Add", "", 1.5)]
    assert rank_operators(runs) == (OperatorTime("Mul", 1, 3.0), OperatorTime("Add", 2, 2.5))


def test_a_model_s_nodes(tmp_path: Path) -> None:
    model = write_artifact(tmp_path / "out") / MODEL_NAME
    placement = Placement(threads=1)
    kernels = profile_model(model, np.ones((2, 8), np.int64), placement, passes=2)
    gather = next(kernel for kernel in kernels if kernel.op_type == "Gather")
    assert "2x8" in gather.shapes
    assert all(kernel.seconds >= 0 for kernel in kernels)
    times = measure_node_times(model, make_manifest(tmp_path, make_spec(), "float32", ()), 8, placement)
    assert times.length == 8
    assert sum(time.runs for time in times.operators) == len(kernels)
    assert "Gather" in {time.operator for time in times.operators}
    seconds = [time.seconds for time in times.operators]
    assert seconds == sorted(seconds, reverse=True)
