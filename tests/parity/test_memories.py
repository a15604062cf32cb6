"""Choices of memories beside eager's: their margins, and defects that are told from near ties."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reformer_export.checkpoints import LoadOptions, load_lucidrains
from reformer_export.export import ExportOptions, write_artifact
from reformer_export.parity.cases import Case
from reformer_export.parity.compare import LayerAgreement
from reformer_export.parity.memories import compare_memories
from reformer_export.parity.session import open_session
from reformer_export.parity.sweep import sweep
from tests.lucidrains import SMALL, save_model

COUNT, KEYS, TOKENS = 6, 20, 5


def make_choice(
    rng: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Queries [TOKENS, 2 * 2, 8], keys [2 * 2, 8, KEYS], and the best COUNT memories of two heads."""
    queries = rng.standard_normal((TOKENS, 4, 8)).astype(np.float32)
    keys = rng.standard_normal((4, 8, KEYS)).astype(np.float32)
    scores = np.einsum("thd,hdn->thn", queries.astype(np.float64), keys)
    every = (scores[:, :2, :, None] + scores[:, 2:, None, :]).reshape(TOKENS, 2, -1)
    return queries, keys, np.argsort(-every, axis=-1)[..., :COUNT]


def compare(got: Any, expected: Any, queries: Any, keys: Any, counts: Any = None) -> LayerAgreement:
    counts = np.ones(TOKENS, np.bool_) if counts is None else counts
    return compare_memories(1, "float32", got, expected, queries, keys, counts)


def test_the_order_of_memories_is_nothing() -> None:
    queries, keys, best = make_choice(np.random.default_rng(0))
    agreement = compare(best[..., ::-1], best, queries, keys)
    assert (agreement.hashed, agreement.flips, agreement.kind) == (TOKENS * 2 * COUNT, 0, "memories")


def test_a_near_tie_is_explained_and_another_memory_is_not() -> None:
    rng = np.random.default_rng(1)
    queries, keys, best = make_choice(rng)
    worst, head = best[2, 1, -1], 1
    twin = np.setdiff1d(np.arange(KEYS) + worst // KEYS * KEYS, best[2, 1])[0]
    keys[2 + head, :, twin % KEYS] = keys[2 + head, :, worst % KEYS]
    got = best.copy()
    got[2, 1, -1] = twin
    agreement = compare(got, best, queries, keys)
    assert (agreement.flips, agreement.unexplained, agreement.misplaced) == (1, 0, 0)
    got[2, 1, -1] = np.setdiff1d(np.arange(KEYS**2), [*best[2, 1], twin])[7]
    agreement = compare(got, best, queries, keys)
    assert (agreement.flips, agreement.unexplained, agreement.misplaced) == (1, 1, 1)
    assert agreement.flip_margins == (agreement.worst_margin,)
    uncounted = np.arange(TOKENS) != 2
    assert compare(got, best, queries, keys, uncounted).flips == 0


def test_other_queries_are_unexplained_and_not_misplaced() -> None:
    rng = np.random.default_rng(2)
    queries, keys, best = make_choice(rng)
    moved = queries + 0.3 * rng.standard_normal(queries.shape).astype(np.float32)
    scores = np.einsum("thd,hdn->thn", moved.astype(np.float64), keys)
    every = (scores[:, :2, :, None] + scores[:, 2:, None, :]).reshape(TOKENS, 2, -1)
    agreement = compare(np.argsort(-every, axis=-1)[..., :COUNT], best, moved, keys)
    assert agreement.unexplained > 0
    assert agreement.misplaced == 0


@pytest.mark.parametrize("wrong", [-1, KEYS**2, None])
def test_what_is_no_choice_is_infinitely_far(wrong: int | None) -> None:
    queries, keys, best = make_choice(np.random.default_rng(3))
    got = best.copy()
    got[0, 0, 0] = got[0, 0, 1] if wrong is None else wrong
    agreement = compare(got, best, queries, keys)
    assert agreement.worst_margin == np.inf
    assert agreement.unexplained >= 1


@pytest.mark.slow
def test_defects_are_told_apart(tmp_path: Path) -> None:
    """One file beside four checkpoints: its own; others with other keys, values and queries."""
    file, config = save_model(tmp_path, SMALL | {"pkm_layers": [1], "pkm_num_keys": 36}, None)
    out, found = tmp_path / "out", {}
    out.mkdir()
    write_artifact(load_lucidrains(str(file), config, LoadOptions()), out, ExportOptions())
    state = torch.load(file, weights_only=True)
    for part, axis in (("", 0), ("keys", 1), ("values.weight", 0), ("to_queries.weight", 0)):
        changed = {name: x.roll(1, axis) if part and name.endswith(part) else x for name, x in state.items()}
        torch.save(changed, file)
        with open_session(out, file) as session:
            found[part] = sweep(session, [Case(40, 2, masked=True)])
    assert [part for part, result in found.items() if result.passed] == [""]
    assert "hashes and choices of memories flipped" in found[""].verdict()
    assert "others fit their queries better" in found["keys"].explain_failure()
    (memories,) = [layer for layer in found["values.weight"].cases[0].layers if layer.kind == "memories"]
    assert memories.flips == 0
    assert "the arithmetic differs" in found["values.weight"].explain_failure()
    queries = found["to_queries.weight"].cases[0]
    assert queries.misplaced == 0
    assert queries.unexplained > 0
