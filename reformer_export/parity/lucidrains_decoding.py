"""decode.onnx of a model of reformer-pytorch against what defines it.

Prompts are compared with model.onnx, to which they are the same pass, and rows of a batch with each alone. Of
the steps every operator is compared with its reference on what it read, and the caches with what they are to
hold (docs/operators.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from reformer_export.artifact.decoding import DECODE_NAME, DECODE_OUTPUT
from reformer_export.contract import LSH_BUCKETS_STEP
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.ops.lsh_buckets_step import buckets_from_records, split_rounds
from reformer_export.parity.compare import (
    EPSILON,
    FLIP_ROUNDINGS,
    GivenTolerance,
    LayerAgreement,
    greatest_magnitude,
    measure_flip,
)
from reformer_export.parity.decoding_cases import DecodingCase, draw_ids
from reformer_export.parity.decoding_operators import limit_elements, move_inputs
from reformer_export.parity.decoding_results import Check, DecodingResult, Finding, limit_error
from reformer_export.parity.expose import ExposedGraph, open_graph
from reformer_export.parity.lucidrains_decoding_run import (
    Call,
    StepNode,
    StepPoints,
    StepRunner,
    compute_reference,
    find_step_points,
    read_by,
    separate_prompts,
)
from reformer_export.parity.noise import DRAWS, NOISE_UNITS
from reformer_export.parity.session import ParitySession
from reformer_export.reference.eager import recorded_rotations
from reformer_export.spec import LSHAttentionSpec

MAX_ALL_CALLS = 8
"""Of a case with more calls than this the operators are looked at around the layers' borders only."""


def check_lucidrains_decoding(
    session: ParitySession,
    cases: Sequence[DecodingCase],
    given: GivenTolerance | None,
    on_case: Callable[[DecodingCase], object],
) -> DecodingResult:
    """As `check_decoding`, whose arguments these are."""
    spec = session.spec
    assert isinstance(spec, LucidrainsSpec)
    with open_graph(session.runtime.folder / DECODE_NAME, session.placement) as graph:
        points = find_step_points(graph.model, spec)
        model = session.graph.expose([], [point for point in session.hashing if point.layer is None])
        runner = StepRunner(graph, session.manifest, points)
        judge, findings = _Judge(session, spec, given, points, runner, model), list[Finding]()
        for case in cases:
            for each in separate_prompts([case], spec):
                findings += judge.judge(each)
            on_case(case)
    return DecodingResult(session.placement.description, session.precision, tuple(findings))


@dataclass(frozen=True)
class _Judge:
    """The open graphs, and what is allowed of logits."""

    session: ParitySession
    spec: LucidrainsSpec
    given: GivenTolerance | None
    points: StepPoints
    runner: StepRunner
    model: ExposedGraph

    def judge(self, case: DecodingCase) -> list[Finding]:
        """All comparisons of one case."""
        ids = draw_ids(self.spec, case, self.session.seed)
        findings, logits = [], {}
        calls = sum(1 for _ in case.calls())
        for number, call in enumerate(self.runner.run(case, ids)):
            for row, length in call.rows():
                logits[row, length] = call.values[DECODE_OUTPUT][row, 0]
                if call.held[row] == 0:
                    expected = self._run_model(ids[row : row + 1, :length], case)
                    findings.append(self._judge_logits("prompt", case, row, length, logits, expected))
            is_chosen = calls <= MAX_ALL_CALLS or number + 1 == calls
            if is_chosen or any(self._is_border(length) for _, length in call.rows()):
                for node in self.points.nodes:
                    findings += self._judge_node(case, call, node)
        return [*findings, *self._judge_alone(case, ids, logits)]

    def _is_border(self, length: int) -> bool:
        borders = self.spec.bucket_size, self.spec.padding_multiple
        return any(length % border in (0, 1) for border in borders) or length in (
            self.spec.dense_threshold,
            self.spec.dense_threshold + 1,
        )

    def _run_model(self, ids: NDArray[np.int64], case: DecodingCase) -> NDArray[np.float32]:
        """float32 [vocab_size]: model.onnx's logits of the last token."""
        inputs = self.session.graph_inputs(ids, np.ones_like(ids), case.num_hashes)
        last: NDArray[np.float32] = self.model.run(inputs, {})[DECODE_OUTPUT][0, -1]
        return last

    def _judge_alone(
        self,
        case: DecodingCase,
        ids: NDArray[np.int64],
        logits: Mapping[tuple[int, int], NDArray[np.float32]],
    ) -> Iterator[Finding]:
        """Each row's logits against its own without the others."""
        for row in range(len(case.rows)) if len(case.rows) > 1 else ():
            for call in self.runner.run(case.alone(row), ids[row : row + 1]):
                for _, length in call.rows():
                    alone = call.values[DECODE_OUTPUT][0, 0]
                    yield self._judge_logits("batch", case, row, length, logits, alone)

    def _judge_logits(
        self,
        check: Check,
        case: DecodingCase,
        row: int,
        length: int,
        logits: Mapping[tuple[int, int], NDArray[np.float32]],
        expected: NDArray[np.float32],
    ) -> Finding:
        error = greatest_magnitude(logits[row, length].astype(np.float64) - expected)
        limit = limit_error(check, self.session.precision, self.given, greatest_magnitude(expected))
        return Finding(check, case, row, length, error, limit)

    def _judge_node(self, case: DecodingCase, call: Call, node: StepNode) -> list[Finding]:
        """A call's node by its reference on what it read: its output within an operator's tolerance, the
        rest exactly, but for hashes of new tokens, which may fall otherwise where two are near."""
        hashes = isinstance(self.spec.layers[node.layer], LSHAttentionSpec)
        rotations = torch.zeros(0)
        if hashes:
            rounds = slice(case.num_hashes)
            rotations = torch.from_numpy(recorded_rotations(self.spec, node.layer)[:, :, rounds].copy())
        inputs = read_by(node, call, rotations)
        expected = compute_reference(node, inputs)
        got = {name: call.values[value] for name, value in node.outputs.items() if value in call.values}
        row, length = max(call.rows(), key=lambda each: each[1])
        name = node.operator.operator.name
        place = (case, row, length)
        if name == LSH_BUCKETS_STEP.name:
            agreement = self._count_flips(node, call, rotations, inputs, got, expected)
            error = _count_misread(self.spec, call, got)
            return [Finding("operator", *place, error, 0.0, node.layer, name, (agreement,))]
        findings = []
        for output, value in got.items():
            errors = np.abs(value.astype(np.float64) - expected[output])
            limits = np.zeros_like(errors)
            if output == "output":
                limits = self._limit_output(node, inputs, expected[output], errors)
            nearest = np.unravel_index((errors - limits).argmax(), errors.shape)
            error, limit = float(np.nan_to_num(errors, nan=np.inf)[nearest]), float(limits[nearest])
            what = name if output == "output" else f"cache {output}"
            findings.append(Finding("operator", *place, error, limit, node.layer, what))
        return findings

    def _limit_output(
        self,
        node: StepNode,
        inputs: Sequence[torch.Tensor],
        expected: NDArray[np.float32],
        errors: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Of each element; where attention is so sharp that it does not suffice, what the reference itself
        differs by where its inputs change in their last place."""
        limits = limit_elements(self.session.precision, expected.astype(np.float64))
        if (errors > limits).any():
            moved = (compute_reference(node, move_inputs(tuple(inputs), seed)) for seed in range(DRAWS))
            noise = max(float(np.abs(each["output"] - expected).max()) for each in moved)
            limits = np.maximum(limits, NOISE_UNITS * noise)
        return limits

    def _count_flips(
        self,
        node: StepNode,
        call: Call,
        rotations: torch.Tensor,
        inputs: Sequence[torch.Tensor],
        got: Mapping[str, NDArray[np.int32]],
        expected: Mapping[str, NDArray[np.int32]],
    ) -> LayerAgreement:
        """Of the call's new tokens' buckets."""
        margins, hashed = [], 0
        planes, size = rotations.numpy().astype(np.float64), self.spec.head_size
        for row, length in call.rows():
            new = int(call.new[row])
            columns = -(-length // self.spec.padding_multiple)
            mine, other = (each["new_buckets"][row, ..., :new] for each in (got, expected))
            hashed += mine.size
            for h, r, token in np.argwhere(mine != other):
                vector = inputs[0][row, token].numpy().reshape(-1, size)[h].astype(np.float64)
                plane = planes[h, :, r, :columns]
                buckets = int(mine[h, r, token]), int(other[h, r, token])
                margins.append(measure_flip((2 * columns,), vector, plane, *buckets)[0])
        limit = FLIP_ROUNDINGS * EPSILON[self.session.precision]
        unexplained = sum(margin > limit for margin in margins)
        worst = max(margins, default=0.0)
        return LayerAgreement(node.layer, hashed, len(margins), unexplained, worst)


def _count_misread(spec: LucidrainsSpec, call: Call, got: Mapping[str, NDArray[np.int32]]) -> float:
    """How many buckets are not what the present records say, of all tokens of rows that got new ones."""
    misread = 0
    for row, length in call.rows():
        records = torch.from_numpy(np.ascontiguousarray(got["present_records"][row, :, :, :length]))
        rounds = got["buckets"].shape[2]
        columns = -(-length // spec.padding_multiple)
        expected = buckets_from_records(split_rounds(records, rounds), columns).numpy()
        misread += int((got["buckets"][row, :, :, :length] != expected).sum())
    return float(misread)
