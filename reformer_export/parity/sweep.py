"""Sweep an artifact over lengths, batches and masks against eager."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from reformer_export.parity.cases import Case
from reformer_export.parity.compare import GivenTolerance, tolerance
from reformer_export.parity.expose import ExposedGraph
from reformer_export.parity.noise import NOISE_UNITS
from reformer_export.parity.points import CHOICES
from reformer_export.parity.results import CaseResult, VerifyResult
from reformer_export.parity.session import ParitySession
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.ort import OnnxRuntime


def sweep(
    session: ParitySession,
    cases: Sequence[Case] | None = None,
    on_result: Callable[[CaseResult], None] | None = None,
    given_tolerance: GivenTolerance | None = None,
) -> VerifyResult:
    """Compare the session's artifact with eager, case by case; `on_result` is told of each. Outputs are
    judged by `given_tolerance`, None for the precision's.

    `cases`: the default ones are those that the runtime takes. Cases with fewer rounds of hashing than the
    artifact has are compared with eager on the first of its rounds (see reference/rotations.py).

    Raises:
        InputError: a case does not fit the model, or none of an engine's profiles.
    """
    if cases is None:
        cases = [case for case in session.default_cases() if takes_case(session.runtime, case)]
    cases = with_built_in_rounds(session.runtime, cases)
    session.check_cases(cases)
    graph = session.expose_hashing()
    results = []
    for case in cases:
        results.append(_run_case(session, graph, case, given_tolerance))
        if on_result is not None:
            on_result(results[-1])
    runtime, notes = _describe_runtime(session.runtime), session.eager.notes
    return VerifyResult(
        runtime, session.manifest.dtype, tuple(results), session.precision, notes, given_tolerance
    )


def with_built_in_rounds(runtime: Runtime, cases: Sequence[Case]) -> list[Case]:
    """`cases` as an engine takes them that has its rounds of hashing built in: with those, and each once."""
    rounds = None if runtime.record is None else runtime.record.num_hashes
    if rounds is None:
        return list(cases)
    taken = [case for case in cases if case.num_hashes in (None, rounds)]
    return list(dict.fromkeys(dataclasses.replace(case, num_hashes=rounds) for case in taken))


def takes_case(runtime: Runtime, case: Case) -> bool:
    """Whether the runtime takes the case's shape: one of its profiles' if it has any, as an engine does."""
    profiles = getattr(runtime, "profiles", None)
    return profiles is None or any(profile.takes(case.batch, case.length) for profile in profiles)


def _describe_runtime(runtime: Runtime) -> str:
    if not isinstance(runtime, OnnxRuntime):
        return runtime.providers[0]
    provider = runtime.providers[0].removesuffix("ExecutionProvider")
    rounding = ", TF32" if runtime.placement.tf32 else ""
    native = f", native {runtime.native}{runtime.products}" if runtime.native else ""
    return f"onnxruntime {provider}{rounding}{native}"


def _run_case(
    session: ParitySession, graph: ExposedGraph, case: Case, given: GivenTolerance | None
) -> CaseResult:
    """One input on eager, on the graph with eager's buckets and memories, and on the runtime."""
    precision, trial = session.precision, session.trial(case)
    truth = trial.run_eager(session.pinned_names)
    got = graph.run(trial.feeds, truth.values)
    pinned_difference = trial.compare(got, truth.outputs)
    judge = trial.judge(truth)
    layers = [judge.count_flips(point, got, got) for point in session.hashing if point.role in CHOICES]
    free_difference = trial.compare(trial.run_runtime(), truth.outputs)
    greatest = pinned_difference.greatest
    limit = tolerance(precision, greatest) if given is None else given.limit(greatest)
    rounded = max((error.share for error in judge.judge(session.rounded, got, got)), default=0.0)
    result = CaseResult(
        case,
        max(pinned_difference.worst, rounded * limit),
        limit,
        tuple(layers),
        free_difference.worst,
        free_difference.median,
        session.reads_buckets,
        rounds=bool(session.rounded),
    )
    is_judged = given is not None or result.rounds or np.isinf(result.pinned_error)
    if is_judged or result.passed or result.unexplained:
        return result
    noise = trial.measure_noise(truth)
    return dataclasses.replace(
        result, tolerance=max(result.tolerance, NOISE_UNITS * noise), eager_noise=noise
    )
