"""What decode.onnx is tried on: prompts of unlike lengths, and rows that step over every layer's borders."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.parity.cases import default_cases, longest_comparable
from reformer_export.spec import ModelSpec

MAX_ROWS: Final = 4
"""Sequences in a batch, of unlike lengths."""

CROSSING_STEPS: Final = 4
"""Steps of a row whose prompt ends 2 tokens before a border."""

MAX_STEPS: Final = 256
"""Steps of the row that begins with one token: with the function bodies each takes a whole pass."""

REST_EVERY: Final = 3
"""A row of a batch rests in one of so many calls, each in another one than its neighbour."""


@dataclass(frozen=True)
class Row:
    """A sequence: its prompt and then so many steps, in tokens; it joins the batch at the call `start`."""

    prompt: int
    steps: int = 0
    start: int = 0

    @property
    def total(self) -> int:
        """Tokens at its end."""
        return self.prompt + self.steps

    def __str__(self) -> str:
        return f"{self.prompt}+{self.steps}" if self.steps else str(self.prompt)


@dataclass(frozen=True)
class DecodingCase:
    """A batch of sequences; `num_hashes` as in `Case`."""

    rows: tuple[Row, ...]
    num_hashes: int | None = None

    def __str__(self) -> str:
        rounds = "" if self.num_hashes is None else f", hashes: {self.num_hashes}"
        return f"rows of {', '.join(map(str, self.rows))} tokens{rounds}"

    @property
    def longest(self) -> int:
        """Tokens of the longest row at its end."""
        return max(row.total for row in self.rows)

    @property
    def has_steps(self) -> bool:
        """Whether any row gets more than its prompt."""
        return any(row.steps for row in self.rows)

    def alone(self, row: int) -> DecodingCase:
        """One of its rows without the others."""
        return dataclasses.replace(self, rows=(dataclasses.replace(self.rows[row], start=0),))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    def calls(self) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """(tokens held, new tokens) of each row, int32 [B] each, call by call: prompts, steps, rests."""
        held = np.zeros(len(self.rows), np.int32)
        totals = np.array([row.total for row in self.rows])
        number = 0
        while (held < totals).any():
            new = [self._new_tokens(index, int(held[index]), number) for index in range(len(self.rows))]
            number += 1
            if any(new):
                yield held.copy(), np.array(new, np.int32)
                held += np.array(new, np.int32)

    def _new_tokens(self, index: int, held: int, number: int) -> int:
        row = self.rows[index]
        if number < row.start or held == row.total:
            return 0
        if held == 0:
            return row.prompt
        rests = len(self.rows) > 1 and (number + index) % REST_EVERY == 0
        return 0 if rests else 1


def choose_decoding_cases(
    manifest: Manifest,
    lengths: Sequence[int] | None = None,
    num_hashes: Sequence[int] = (),
    short: bool = False,
) -> list[DecodingCase]:
    """Prompts around the model's borders, or of `lengths`; rows that step over those borders; and a row that
    steps from one token on. With each of `num_hashes`; by default with all rounds, and where runs choose
    them a few rows with the fewest. `short` keeps a handful."""
    spec = manifest.spec
    ends = sorted(set(lengths)) if lengths is not None else _prompt_lengths(spec, short)
    longest = max(ends)
    prompts = _batch([Row(length) for length in ends], longest)
    crossing = _batch(_crossing_rows(spec, lengths, short), longest)
    last = min(CROSSING_STEPS * 3 if short else MAX_STEPS, 3 * spec.padding_multiple + 2, spec.max_length - 1)
    growing = [DecodingCase((Row(1, last),))] if last > 0 and lengths is None and not short else []
    cases = [*prompts, *crossing, *growing]
    if num_hashes:
        counts = dict.fromkeys(num_hashes)
        return [dataclasses.replace(case, num_hashes=count) for count in counts for case in cases]
    choice = manifest.runtime_num_hashes
    if choice is not None and choice.counts[0] != choice.max_hashes:
        few = [dataclasses.replace(case, num_hashes=choice.counts[0]) for case in (prompts[-1], crossing[0])]
        cases += list(dict.fromkeys(few))
    return cases


def _prompt_lengths(spec: ModelSpec, short: bool) -> list[int]:
    return sorted({case.length for case in default_cases(spec, short)})


def _crossing_rows(spec: ModelSpec, lengths: Sequence[int] | None, short: bool) -> list[Row]:
    """Prompts that end before a border, and steps over it."""
    chunks = {layer.chunk_length for layer in spec.layers}
    if lengths is not None:
        borders = set(lengths)
    elif short:
        borders = {spec.padding_threshold, 2 * spec.padding_multiple}
    else:
        multiples = {count * spec.padding_multiple for count in (1, 2, 3)}
        borders = chunks | multiples | {spec.padding_threshold, longest_comparable(spec)}
    starts = sorted({max(1, min(border, spec.max_length) - 2) for border in borders})
    rows = (Row(start, min(CROSSING_STEPS, spec.max_length - start)) for start in starts)
    return [row for row in rows if row.steps] or [Row(1)]


def _batch(rows: Sequence[Row], longest: int) -> list[DecodingCase]:
    """Neighbours go together, as long as the batch is no larger than the longest row. Every second row joins
    later than the others."""
    groups: list[list[Row]] = []
    for row in rows:
        full = not groups or len(groups[-1]) == MAX_ROWS or (len(groups[-1]) + 1) * row.total > 2 * longest
        groups = [*groups, [row]] if full else [*groups[:-1], [*groups[-1], row]]
    return [
        DecodingCase(
            tuple(
                dataclasses.replace(row, start=2 * (i % 2) if row.steps else 0) for i, row in enumerate(group)
            )
        )
        for group in groups
    ]


def draw_ids(spec: ModelSpec, case: DecodingCase, seed: int) -> NDArray[np.int64]:
    """Random ids int64 [B, longest]; a row's own are its first."""
    rng = np.random.default_rng((seed, case.longest, len(case.rows)))
    return rng.integers(0, spec.vocab_size, (len(case.rows), case.longest), dtype=np.int64)
