"""`reformer-export verify --data`: how good and how fast a language model is, by its number of hashes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from reformer_export.artifact.manifest import Manifest
from reformer_export.cli.runtime_options import Command
from reformer_export.cli.tables import show_progress
from reformer_export.errors import InputError
from reformer_export.measure.accuracy import (
    AccuracyResult,
    AccuracyRow,
    TokenText,
    check_predicts_tokens,
    count_passes,
    measure_accuracy,
)
from reformer_export.report.verify_report import DataAccuracy
from reformer_export.runtimes import RuntimeOptions, load
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.tokenizer import load_tokenizer
from reformer_export.spec import LSHAttentionSpec


def data_options(command: Command) -> Command:
    """Add --data and --data-length."""
    command = click.option(
        "--data-length",
        type=click.IntRange(min=2),
        help="Tokens of a sequence that --data is cut into; default: the longest that runs.",
    )(command)
    return click.option(
        "--data",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="A UTF-8 text: also measure next-token loss and speed on it, for several numbers of hashes.",
    )(command)


def check_data_options(manifest: Manifest, data: Path | None, data_length: int | None) -> None:
    """InputError when they do not fit the artifact, before any work."""
    if data is None and data_length is not None:
        raise InputError(f"--data-length: got {data_length} without a text, expected --data FILE too; add it")
    if data is not None:
        check_predicts_tokens(manifest.spec)
        _read_text(data)


def measure_data(
    out: Path, choice: RuntimeOptions, data: Path, data_length: int | None, counts: Sequence[int]
) -> dict[str, Any]:
    """What the JSON says under "dial": rows by number of hashes, over the text in the file `data`.

    `counts`: numbers of hashes; none for the usual ones, or the model's own where runs have no choice.
    """
    text = _read_text(data)
    with load(out, choice) as runtime:
        spec, runtime_num_hashes = runtime.spec, runtime.manifest.runtime_num_hashes
        length = runtime.max_length if data_length is None else data_length
        ids = np.asarray(load_tokenizer(out, spec.vocab_size).encode(text), np.int64)
        rounds: tuple[int | None, ...] = tuple(counts) or (
            (None,) if runtime_num_hashes is None else runtime_num_hashes.counts
        )
        for count in rounds:
            choose_num_hashes(runtime.manifest, count)
        with show_progress("Passes over the data", count_passes(len(ids), length, len(rounds))) as advance:
            result = measure_accuracy(runtime, TokenText(ids, len(text)), length, rounds, advance)
        values: dict[str, Any] = {
            "data": data.name,
            "max_hashes": None if runtime_num_hashes is None else runtime_num_hashes.max_hashes,
        }
        values |= result.to_dict()
    for row in values["rows"]:
        if row["num_hashes"] is None:
            row["num_hashes"] = _own_num_hashes(runtime.manifest)
    return values


def accuracy_from_values(values: dict[str, Any]) -> DataAccuracy:
    """What `measure_data` found, typed."""
    rows = tuple(AccuracyRow(**row) for row in values["rows"])
    numbers = (values[name] for name in ("sequence_length", "sequences", "characters"))
    return DataAccuracy(values["data"], values["max_hashes"], AccuracyResult(rows, *numbers))


def _own_num_hashes(manifest: Manifest) -> int | None:
    """The rounds of a model without a choice; None when it does not hash."""
    layers = [layer for layer in manifest.spec.layers if isinstance(layer, LSHAttentionSpec)]
    return layers[0].num_hashes if layers else None


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--data: got {path}, which cannot be read ({error}), expected UTF-8 text; check it"
        ) from error
    if not text:
        raise InputError(f"--data: got {path}, which is empty, expected some text; give another file")
    return text
