"""What a report shows of a comparison with a user's module beyond the sweep; the twin of details.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reformer_export.parity.cases import Case
from reformer_export.parity.compare import EPSILON, FLIP_ROUNDINGS
from reformer_export.parity.details import MARGIN_TOKENS, Details, measure_layers
from reformer_export.parity.hashing import (
    MAX_PATTERN_TOKENS,
    AttendingLayer,
    AttentionPattern,
    MarginHistogram,
    attends_as_lucidrains,
    count_margins,
    trace_layer,
)
from reformer_export.parity.module_session import ModuleSession
from reformer_export.parity.module_trial import ModuleJudge
from reformer_export.reference.module import BUCKETS, QUERY_KEY, layer_name
from reformer_export.reference.runs import EagerRun


def collect_module_details(session: ModuleSession, cases: Sequence[Case]) -> Details:
    """Look into the module on `cases`, those of a sweep."""
    spec, limit = session.custom, FLIP_ROUNDINGS * EPSILON[session.precision]
    names = {layer: layer_name(spec, layer) or "itself" for layer in range(len(spec.layers))}
    layers = measure_layers(session, cases)
    by_size = sorted((case for case in cases if not case.masked), key=lambda case: case.batch * case.length)
    fitting = [case for case in by_size if case.batch * case.length <= MARGIN_TOKENS] or by_size[:1] or cases
    margins = _measure_margins(session, fitting[-1])
    short = [case for case in by_size if case.length <= MAX_PATTERN_TOKENS]
    patterns = (_trace_pattern(session, case) for case in reversed(short))
    pattern = next((found for found in patterns if found is not None), None)
    return Details(layers, margins, pattern, limit, names=names)


def _measure_margins(session: ModuleSession, case: Case) -> tuple[MarginHistogram, ...]:
    """Of each run of a layer that hashes the case, of what eager hashes there."""
    trial = session.trial(case)
    truth = trial.run_eager(points={QUERY_KEY})
    judge = trial.judge(truth)
    assert isinstance(judge, ModuleJudge)
    return tuple(
        count_margins(
            layer, judge.hashing(layer, buckets, buckets), truth.values[judge.name(layer) + QUERY_KEY]
        )
        for layer, buckets in truth.buckets.items()
        if session.custom.is_hashed(layer, buckets.shape[3])
    )


def _trace_pattern(session: ModuleSession, case: Case) -> AttentionPattern | None:
    """Of the case's first row in the first layer that hashes it; None where eager or the graph pads it."""
    truth = session.trial(case).run_eager(points={QUERY_KEY})
    layers = [i for i, x in truth.buckets.items() if session.custom.is_hashed(i, x.shape[3])]
    return _trace_layer(session, truth, layers[0]) if layers else None


def _trace_layer(session: ModuleSession, truth: EagerRun, layer: int) -> AttentionPattern | None:
    spec, use = session.custom, session.custom.uses[layer]
    name = layer_name(spec, layer)
    vectors, buckets = truth.values[name + QUERY_KEY][0], truth.values[name + BUCKETS][0]
    attention = spec.layers[layer]
    if len(vectors) % attention.chunk_length or len(vectors) != buckets.shape[2]:
        return None
    memory = int(getattr(session.module.model.get_submodule(use.path), "num_mem_kv", 0))
    attending = AttendingLayer(layer, attention, use.num_heads, use.head_size, use.is_causal, True, memory)
    if use.family == "lucidrains":
        attending = attends_as_lucidrains(attending)
        vectors = vectors * np.float32(use.head_size**-0.5)
    return trace_layer(attending, vectors, buckets)
