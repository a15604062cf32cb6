from __future__ import annotations

import pytest

from reformer_export.engine.progress import PhaseTree


def test_steps_of_inner_phases_are_parts_of_an_outer_step() -> None:
    tree = PhaseTree()
    assert tree.start("build", None, 4).fraction == 0.0
    assert tree.complete_step("build", 0).fraction == 0.25
    tree.start("optimise", "build", 2)
    inner = tree.complete_step("optimise", 0)
    assert (inner.fraction, inner.phase, inner.done, inner.total) == (0.375, "optimise", 1, 2)
    tree.start("time", "optimise", 10)
    assert tree.complete_step("time", 4).fraction == pytest.approx(0.25 + 0.25 * 0.75)
    tree.finish("time")
    tree.complete_step("optimise", 1)
    assert tree.finish("optimise").fraction == 0.5
    tree.complete_step("build", 3)
    assert tree.finish("build").fraction == 1.0


def test_it_never_goes_back_and_never_beyond_the_end() -> None:
    tree = PhaseTree()
    tree.start("build", None, 2)
    tree.start("inner", "build", 1)
    assert tree.complete_step("inner", 9).fraction == 0.5
    tree.finish("inner")
    assert tree.start("inner", "build", 1).fraction == 0.5
    assert tree.complete_step("build", 7).fraction == 1.0
    assert tree.start("again", None, 0).fraction == 1.0


def test_phases_that_nobody_started() -> None:
    tree = PhaseTree()
    assert tree.complete_step("unknown", 3).fraction == 0.0
    assert tree.finish("unknown").phase == "unknown"
    tree.start("itself", "itself", 2)
    assert tree.complete_step("itself", 0).fraction <= 1.0
