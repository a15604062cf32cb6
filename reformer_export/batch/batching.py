"""Which sequences run together: within a window of lines, those whose company does not change the answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.signature import BATCH, SEQUENCE, graph_outputs, has_row_a_token
from reformer_export.batch.results import SequenceResult
from reformer_export.batch.sequences import Count, InputLine, InputSequence
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.sampling import require_integer
from reformer_export.spec import ModelSpec

WINDOW_OUTPUT_BYTES: Final = 2**28
"""Of outputs that wait for their turn to be written, and of vectors: a window ends with the line that reaches
it."""

WINDOW_TOKENS: Final = 2**20
"""A window ends with the line that reaches so many: their work is lost with an interruption."""


@dataclass(frozen=True)
class Batching:
    """How sequences become batches.

    A batch has at most `rows` sequences (None: any number) and, with its padding, at most `tokens` tokens
    (None: any number; a sequence that is longer than that runs alone). They are looked for among `window`
    lines at a time. `mixes_lengths` puts any lengths together; else only those that the model itself pads
    to one length, for which a row's answer is the same as alone.
    """

    rows: int | None = 1
    tokens: int | None = None
    window: int = 1024
    mixes_lengths: bool = False

    def __post_init__(self) -> None:
        for name in ("rows", "tokens", "window"):
            if getattr(self, name) is not None or name == "window":
                require_integer(name, getattr(self, name), 1)

    @property
    def window_lines(self) -> int:
        """Lines to look at together: one where there is nothing to put together."""
        return 1 if self.rows == 1 else self.window


@dataclass(frozen=True)
class Totals:
    """What was done: sequences run and lines skipped, tokens, and `cells`, which are tokens with padding."""

    sequences: Count = 0
    skipped: Count = 0
    tokens: Count = 0
    cells: Count = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def padding_share(self) -> float:
        """Padding's share of all that was computed, 0 to 1; the model's own padding does not count."""
        return 1 - self.tokens / self.cells if self.cells else 0.0


def windows_from_lines(
    lines: Iterable[InputLine], batching: Batching, spec: ModelSpec
) -> Iterator[list[InputLine]]:
    """Lines in order, as many together as the window and its outputs' memory allow.

    Where a window ends depends on the lines in it alone, so that a run that goes on at a window's end makes
    the batches that it would have made without the break.
    """
    window: list[InputLine] = []
    size = tokens = 0
    for line in lines:
        window.append(line)
        if line.sequence is not None:
            tokens += len(line.sequence.ids)
            size += count_output_bytes(spec, len(line.sequence.ids))
            size += line.sequence.ids.nbytes if line.sequence.has_vectors else 0
        full = size >= WINDOW_OUTPUT_BYTES or tokens >= WINDOW_TOKENS
        if full or len(window) >= batching.window_lines:
            yield window
            window, size, tokens = [], 0, 0
    if window:
        yield window


def count_output_bytes(spec: ModelSpec, length: int) -> int:
    """Of one sequence's outputs: float32, in JSON several times that."""
    sizes = {BATCH: 1, SEQUENCE: length}
    return sum(4 * math.prod(output.sizes(sizes)) for output in graph_outputs(spec, "float32"))


def plan_batches(lengths: Sequence[int], batching: Batching, spec: ModelSpec) -> list[list[int]]:
    """Positions in `lengths`, each once, in batches; the longest first, whose memory the others then use."""
    group_of = {length: 0 if batching.mixes_lengths else find_group(length, spec) for length in set(lengths)}
    groups = [group_of[length] for length in lengths]
    order = sorted(range(len(lengths)), key=lambda position: (-groups[position], -lengths[position]))
    batches: list[list[int]] = []
    for position in order:
        if batches and groups[batches[-1][0]] == groups[position]:
            rows = len(batches[-1]) + 1
            fits = batching.rows is None or rows <= batching.rows
            fits &= batching.tokens is None or rows * lengths[batches[-1][0]] <= batching.tokens
            if fits:
                batches[-1].append(position)
                continue
        batches.append([position])
    return batches


def find_group(length: int, spec: ModelSpec) -> int:
    """Sequences of one group give the same answers together as alone: masked up to the longest of them, each
    stands as the model's own padding to whole chunks would have it (none, up to the smallest chunk)."""
    return 0 if length <= spec.padding_threshold else spec.padded_length(length)


def run_window(
    runtime: Runtime,
    window: Sequence[InputLine],
    batching: Batching,
    advance: Callable[[int], None],
) -> tuple[list[InputLine | SequenceResult], Totals]:
    """Run a window's sequences; their results in the lines' order, bad lines as they came, and what was done.

    `advance` is told how many more lines are done.
    """
    good = [(line, line.sequence) for line in window if line.sequence is not None]
    totals = Totals(skipped=len(window) - len(good))
    advance(totals.skipped)
    is_by_token = has_row_a_token(runtime.spec)
    results: dict[int, SequenceResult] = {}
    for batch in plan_batches([len(sequence.ids) for _, sequence in good], batching, runtime.spec):
        rows = [good[position][1] for position in batch]
        outputs = _run_batch(runtime, rows)
        lengths = [len(row.ids) for row in rows]
        for row, position in enumerate(batch):
            line, sequence = good[position]
            end = lengths[row] if is_by_token else None  # without padding
            values = {name: value[row][:end] for name, value in outputs.items()}
            results[line.index] = SequenceResult(line.index, sequence, values, line.extra)
        advance(len(rows))
        totals += Totals(len(rows), 0, sum(lengths), len(rows) * max(lengths))
    return [results.get(line.index, line) for line in window], totals


def _run_batch(runtime: Runtime, batch: list[InputSequence]) -> dict[str, NDArray[np.float32]]:
    masked = any(sequence.mask is not None for sequence in batch)
    return runtime.run(
        [sequence.ids for sequence in batch],
        [sequence.mask_or_ones for sequence in batch] if masked else None,
    )
