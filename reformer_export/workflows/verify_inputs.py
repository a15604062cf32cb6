"""A user's own inputs as cases of a comparison, from a file as `run --file` reads it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.batch import InputLine, SequenceReader, open_file, refuse_bad_line
from reformer_export.errors import InputError
from reformer_export.runtimes.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from reformer_export.parity.cases import Case

DEFAULT_BATCH_SIZE: Final = 8
"""Rows: eager takes a batch's memory at once, and an array may have any number of them."""


def cases_from_file(
    path: Path, folder: Path, manifest: Manifest, batch_sizes: Sequence[int] | None
) -> list[Case]:
    """The sequences in the file `path`, neighbours of one length together, once for each of `batch_sizes`.

    InputError for a sequence that the artifact in `folder` does not take, and for a file without one.
    """
    sizes = dict.fromkeys(batch_sizes or (DEFAULT_BATCH_SIZE,))
    if min(sizes) < 1:
        raise InputError("batch_sizes", min(sizes), "1 or more", "choose another")
    lines = _read_lines(path, folder, manifest)
    cases: dict[tuple[int, int], Case] = {}
    for size in sizes:
        for rows in _cut_into_batches(lines, size):
            cases.setdefault((rows[0].index, len(rows)), _case_from_lines(path, rows))
    return list(cases.values())


def _read_lines(path: Path, folder: Path, manifest: Manifest) -> list[InputLine]:
    spec = manifest.spec
    reader = SequenceReader(
        spec, spec.max_length, lambda: load_tokenizer(folder, spec.vocab_size, manifest.tokenizer)
    )
    lines = []
    with open_file(path, reader) as source:
        for line in source:
            refuse_bad_line(line)
            lines.append(line)
    if not lines:
        raise InputError("inputs", f"{path}, a file without a line", "at least one sequence", "fill it")
    return lines


def _cut_into_batches(lines: Sequence[InputLine], size: int) -> Iterator[list[InputLine]]:
    """Neighbours of one length, at most `size` together."""
    for _, group in itertools.groupby(lines, lambda line: len(_ids_of(line))):
        together = list(group)
        yield from (together[first : first + size] for first in range(0, len(together), size))


def _ids_of(line: InputLine) -> NDArray[Any]:
    assert line.sequence is not None
    return line.sequence.ids


def _case_from_lines(path: Path, lines: Sequence[InputLine]) -> Case:
    from reformer_export.parity.cases import Case, GivenInputs

    rows = np.stack([_ids_of(line) for line in lines])
    ids = rows.astype(np.float32 if rows.ndim == 3 else np.int64)
    mask = np.stack([line.sequence.mask_or_ones for line in lines if line.sequence]).astype(np.int64)
    where = f"{path.name}, rows {lines[0].index} to {lines[-1].index}"
    given = GivenInputs(where, ids, mask)
    return Case(ids.shape[1], ids.shape[0], not bool(mask.all()), inputs=given)
