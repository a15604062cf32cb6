"""`run` of a custom module: arrays by name in, arrays by name out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from reformer_export.batch.named_arrays import NPZ, Arrays, read_named_arrays, run_named, write_named_arrays
from reformer_export.cli.option_values import write_json
from reformer_export.cli.tables import print_table
from reformer_export.errors import InputError
from reformer_export.report.tables import Columns, make_table
from reformer_export.runtimes import Runtime

OUTPUTS: Final[Columns[tuple[str, NDArray[Any]]]] = {
    "output": lambda pair: pair[0],
    "type": lambda pair: pair[1].dtype.name,
    "shape": lambda pair: ", ".join(map(str, pair[1].shape)) or "none",
    "least": lambda pair: _format(pair[1].min()),
    "mean": lambda pair: _format(pair[1].astype(np.float64).mean()),
    "greatest": lambda pair: _format(pair[1].max()),
}


def check_named(given: Mapping[str, object]) -> None:
    """InputError for the first of the values, by what a user calls them, that is there: a custom module has
    no sequences to which they could apply."""
    for name, value in given.items():
        if value:
            got, expected = "it for a custom module", "`file` with a .npz of its inputs alone"
            raise InputError(name, got, expected, "leave it out")


def run_named_file(
    runtime: Runtime, files: tuple[Path, ...], output: Path | None, rows: int | None, json_file: Path | None
) -> None:
    """Run over the arrays of the only one of `files` and write the outputs, or show what they are."""
    if len(files) != 1:
        names = ", ".join(each.name for each in runtime.manifest.inputs)
        raise InputError("file", f"{len(files)} files", f"one, a .npz with {names}", "give one")
    if output is not None and output.suffix.lower() != NPZ:
        raise InputError("output", output.name, "a name ending in .npz", "rename it")
    arrays = read_named_arrays(files[0], runtime.manifest)
    begun = time.perf_counter()
    outputs = run_named(runtime, arrays, rows)
    seconds = time.perf_counter() - begun
    if output is not None:
        write_named_arrays(output, outputs)
    values = {
        "artifact": str(runtime.folder),
        "task": runtime.spec.task,
        "runtime": runtime.description,
        "providers": list(runtime.providers),
        "output": None if output is None else str(output),
        "outputs": _describe(outputs),
        "seconds": seconds,
    }
    if write_json(json_file, values):
        return
    if output is None:
        print_table(make_table("Outputs", OUTPUTS, outputs.items()))
    else:
        click.echo(f"Wrote {', '.join(outputs)} to {output}")


def _describe(outputs: Arrays) -> dict[str, Any]:
    return {name: {"dtype": value.dtype.name, "shape": list(value.shape)} for name, value in outputs.items()}


def _format(value: Any) -> str:
    return str(value) if isinstance(value, np.bool_ | np.integer) else f"{value:.6g}"
