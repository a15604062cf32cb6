"""decode.onnx against what defines it: the operators over all tokens, model.onnx, and each row alone.

Its prompt phase is compared with model.onnx. A step has no such twin, since the past is frozen
(docs/operators.md): its operators are compared with the whole operators over what every token was when it was
new, and all that lies around them, which looks at one token at a time, with model.onnx where that is given
the attention that the steps gave. Rows of a batch are compared with the same rows alone. Where hashes are in
between, both sides use the same buckets, and the flips are counted, as in a comparison with eager.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.decoding import DECODE_NAME, DECODE_OUTPUT
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.parity.attention_points import find_attention
from reformer_export.parity.compare import (
    GivenTolerance,
    LayerAgreement,
    compare_buckets,
    greatest_magnitude,
)
from reformer_export.parity.decoding_cases import DecodingCase, draw_ids
from reformer_export.parity.decoding_operators import judge_operators
from reformer_export.parity.decoding_results import Check, DecodingResult, Finding, limit_error
from reformer_export.parity.decoding_run import BUCKETS, OUTPUT, DecodeRunner, Trace
from reformer_export.parity.expose import ExposedGraph, open_graph
from reformer_export.parity.lucidrains_decoding import check_lucidrains_decoding
from reformer_export.parity.noise import NOISE_UNITS
from reformer_export.parity.session import ParitySession
from reformer_export.parity.trial import ModelTrial
from reformer_export.reference.eager import recorded_rotations
from reformer_export.reference.eager_values import attention_name
from reformer_export.spec import ModelSpec


def check_decoding(
    session: ParitySession,
    cases: Sequence[DecodingCase],
    given: GivenTolerance | None = None,
    on_case: Callable[[DecodingCase], object] = lambda _case: None,
) -> DecodingResult:
    """Compare the decode.onnx beside the session's model.onnx, where ONNX Runtime runs that.

    `given`: what is allowed of logits in place of the precision's tolerance; operators are judged by their
    own. `on_case` is told of each of `cases` when it is done.

    Raises:
        ArtifactError: decode.onnx is no graph of the manifest's model.
    """
    if isinstance(session.spec, LucidrainsSpec):
        return check_lucidrains_decoding(session, cases, given, on_case)
    with ExitStack() as stack:
        path = session.runtime.folder / DECODE_NAME
        graph = stack.enter_context(open_graph(path, session.placement))
        attention = find_attention(session.graph.model, session.spec)
        outputs = [point for point in session.hashing if point.layer is None]
        read = [point for layer in attention for point in layer.read.values()]
        judge = _Judge(
            session,
            given,
            DecodeRunner(graph, session.manifest, pinned=False),
            DecodeRunner(graph, session.manifest, pinned=True),
            session.graph.expose([], session.hashing),
            session.graph.expose([layer.output for layer in attention], [*outputs, *read]),
        )
        findings: list[Finding] = []
        for case in cases:
            findings += judge.judge(case)
            on_case(case)
    return DecodingResult(session.placement.description, session.precision, tuple(findings))


@dataclass(frozen=True)
class _Judge:
    """The open graphs: decode.onnx on its own buckets and on given ones, model.onnx as it is and with given
    attention; and eager's noise by case and row, where it was measured."""

    session: ParitySession
    given: GivenTolerance | None
    free: DecodeRunner
    pinned: DecodeRunner
    model: ExposedGraph
    around: ExposedGraph
    noise: dict[tuple[DecodingCase, int], float] = field(default_factory=dict)

    def judge(self, case: DecodingCase) -> list[Finding]:
        """All comparisons of one case."""
        ids = draw_ids(self.session.spec, case, self.session.seed)
        if not case.has_steps:
            trace, findings = self._judge_prompts(case, ids)
            return [*findings, *judge_operators(self.session, trace)]
        trace = self.free.run(case, ids)
        findings = judge_operators(self.session, trace)
        for row in range(len(case.rows)):
            findings += self._judge_around(trace, row)
            if len(case.rows) > 1:
                findings += self._judge_alone(trace, row)
        return findings

    def _judge_prompts(self, case: DecodingCase, ids: NDArray[np.int64]) -> tuple[Trace, list[Finding]]:
        """Each row's prompt against model.onnx, which sees it alone and gives its buckets."""
        runs = [self._run_model(ids[b : b + 1, : row.prompt], case) for b, row in enumerate(case.rows)]
        spec = self.session.spec
        given = [
            _join_buckets(runs, layer) if layer in spec.lsh_layers else None
            for layer in range(len(spec.layers))
        ]
        trace = self.pinned.run(case, ids, given)
        findings = []
        for row, run in enumerate(runs):
            length = case.rows[row].prompt
            agreements = self._count_flips(trace, row, length, _buckets_of(run, spec))
            findings += self._judge_logits(
                "prompt", trace, row, {length: run[DECODE_OUTPUT][0, -1]}, agreements
            )
        return trace, findings

    def _judge_around(self, trace: Trace, row: int) -> list[Finding]:
        """A row's logits, and what its operators read, against those of model.onnx with the attention that
        the row's calls gave."""
        spec, length = self.session.spec, trace.case.rows[row].total
        expected: dict[int, NDArray[np.float32]] = {}
        lengths = trace.lengths(row)
        # Where it gives the last token's logits only, every length is a run of its own.
        for end in lengths if spec.logits == "last" else [length]:
            attention = {
                attention_name(layer): trace.of_row(layer, OUTPUT, row, end)
                for layer in range(len(spec.layers))
            }
            run = self._run_model(trace.ids[row : row + 1, :end], trace.case, attention)
            logits = run[DECODE_OUTPUT][0]
            expected |= {at: logits[at - 1] for at in lengths} if spec.logits == "all" else {end: logits[-1]}
        agreements = self._count_flips(trace, row, length, _buckets_of(run, spec))
        findings = self._judge_logits("around", trace, row, expected, agreements)
        return [*findings, *(self._judge_read(trace, row, layer, run) for layer in range(len(spec.layers)))]

    def _judge_read(self, trace: Trace, row: int, layer: int, run: Mapping[str, NDArray[Any]]) -> Finding:
        """What a layer's step operator read of all of a row's tokens: of its inputs the worst."""
        length, findings = trace.case.rows[row].total, []
        for name in trace.layers[layer]:
            if name not in (BUCKETS, OUTPUT):
                expected = run[f"{attention_name(layer)}.{name}"]
                error = greatest_magnitude(
                    trace.of_row(layer, name, row, length).astype(np.float64) - expected
                )
                limit = limit_error(
                    "around", self.session.precision, self.given, greatest_magnitude(expected)
                )
                findings.append(Finding("around", trace.case, row, length, error, limit, layer, name))
        return max(findings, key=lambda finding: finding.share)

    def _judge_alone(self, trace: Trace, row: int) -> list[Finding]:
        """A row's logits against its own without the others, by the same buckets."""
        ids, buckets = trace.ids[row : row + 1], trace.buckets_of_row(row)
        alone = self.pinned.run(trace.case.alone(row), ids, buckets)
        expected = {length: alone.logits[0, length] for length in trace.lengths(row)}
        found = [
            each if each is None else each[..., : trace.case.rows[row].total]
            for each in alone.buckets_of_row(0)
        ]
        agreements = self._count_flips(trace, row, trace.case.rows[row].total, found)
        return self._judge_logits("batch", trace, row, expected, agreements)

    def _run_model(
        self, ids: NDArray[np.int64], case: DecodingCase, attention: Mapping[str, NDArray[Any]] | None = None
    ) -> dict[str, NDArray[Any]]:
        """The outputs, query_key and buckets of model.onnx, where `attention` is given with that."""
        inputs = self.session.graph_inputs(ids, np.ones_like(ids), case.num_hashes)
        return self.model.run(inputs, {}) if attention is None else self.around.run(inputs, attention)

    def _count_flips(
        self, trace: Trace, row: int, length: int, expected: Sequence[NDArray[np.int32] | None]
    ) -> tuple[LayerAgreement, ...]:
        """Of a row's first `length` tokens, against `expected` int32 [1, H, R, length] by layer."""
        spec = self.session.spec
        return tuple(
            compare_buckets(
                layer,
                spec,
                self.session.precision,
                trace.of_row(layer, BUCKETS, row, length),
                buckets,
                trace.of_row(layer, "query_key", row, length),
                recorded_rotations(spec, layer),
                np.ones((1, length), np.int64),
            )
            for layer, buckets in enumerate(expected)
            if buckets is not None
        )

    def _judge_logits(
        self,
        check: Check,
        trace: Trace,
        row: int,
        expected: Mapping[int, NDArray[np.float32]],
        agreements: tuple[LayerAgreement, ...],
    ) -> list[Finding]:
        """A row's logits [vocab_size] by length; the agreements go with the last."""
        findings = []
        for length, logits in expected.items():
            error = greatest_magnitude(trace.logits[row, length].astype(np.float64) - logits)
            limit = limit_error(check, self.session.precision, self.given, greatest_magnitude(logits))
            if error > limit and self.given is None:
                limit = max(limit, NOISE_UNITS * self._measure_noise(trace, row))
            flips = agreements if length == max(expected) else ()
            findings.append(Finding(check, trace.case, row, length, error, limit, agreements=flips))
        return findings

    def _measure_noise(self, trace: Trace, row: int) -> float:
        """How far eager is from itself on a row."""
        if (trace.case, row) not in self.noise:
            ids = trace.ids[row : row + 1, : trace.case.rows[row].total]
            trial = ModelTrial(self.session, ids, np.ones_like(ids), trace.case.num_hashes)
            self.noise[trace.case, row] = trial.measure_noise(trial.run_eager())
        return self.noise[trace.case, row]


def _buckets_of(run: Mapping[str, NDArray[Any]], spec: ModelSpec) -> list[NDArray[np.int32] | None]:
    """By layer, int32 [1, H, R, L] of a run of model.onnx; None for one that does not hash."""
    return [run.get(f"{attention_name(layer)}.buckets") for layer in range(len(spec.layers))]


def _join_buckets(runs: Sequence[Mapping[str, NDArray[Any]]], layer: int) -> NDArray[np.int32]:
    """Of runs of unlike lengths, int32 [B, H, R, longest], zero behind each."""
    found = [run[f"{attention_name(layer)}.buckets"] for run in runs]
    longest = max(each.shape[3] for each in found)
    return np.concatenate([np.pad(each, [(0, 0)] * 3 + [(0, longest - each.shape[3])]) for each in found])
