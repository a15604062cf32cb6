"""What a user gives to compare with, and on: a module of their own, and inputs as cases of a comparison."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.manifest import Manifest
from reformer_export.batch import InputLine, SequenceReader, open_file, refuse_bad_line
from reformer_export.batch.named_arrays import read_named_arrays
from reformer_export.errors import InputError, one_line, one_line_repr
from reformer_export.runtimes.tokenizer import load_tokenizer
from reformer_export.workflows.progress import Say
from reformer_export.workflows.verify_request import VerifyRequest, calls_of

if TYPE_CHECKING:
    from reformer_export.parity.cases import Case
    from reformer_export.reference.module import Arguments

DEFAULT_BATCH_SIZE: Final = 8
"""Rows: eager takes a batch's memory at once, and an array may have any number of them."""


def check_eager_is_named(manifest: Manifest, request: VerifyRequest) -> None:
    """InputError unless a module is given for an artifact of one, and for no other.

    No artifact says where its module is to be had: that would run code that a stranger names.
    """
    if manifest.is_custom and request.module is None:
        raise InputError(
            "module",
            "none, for an artifact of a module of a user's own",
            "what it is to be compared with",
            f"give `module`, e.g. {FORM}",
        )
    if manifest.is_custom and request.checkpoint is not None:
        got, fix = "it for an artifact of a module", "leave it out"
        raise InputError("checkpoint", got, "`module`", fix)
    if not manifest.is_custom and request.module is not None:
        got, fix = "it for an artifact of a checkpoint", "leave it out"
        raise InputError("module", got, "`checkpoint`, or neither", fix)
    if not manifest.is_custom and request.calls is not None:
        got, fix = f"{type(request.inputs).__name__}, for an artifact of a checkpoint", "write them to a file"
        raise InputError("inputs", got, "a file", fix)


def find_module(request: VerifyRequest, say: Say) -> tuple[Any, Any]:
    """The module that is named or given, and the inputs that come with it; None each where there are none."""
    if isinstance(request.module, str):
        return load_user_module(request.module, say)
    return request.module, None


_REFERENCE: Final = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*(?:\.[^\W\d]\w*)*)")

FORM: Final = "package.module:function"


def load_user_module(reference: str, say: Say) -> tuple[Any, Any]:
    """(the module, inputs or None) that a user's function gives, which may give the module alone; `reference`
    is `package.module:function`, looked for in the working directory too.

    Importing runs what is in the file, with all that this process may do: only a caller names it, never an
    artifact, which may be a stranger's. `say` is told of it before anything of it runs.

    Raises:
        InputError: it is not there, or does not give them.
    """
    parts = _REFERENCE.fullmatch(reference)
    if parts is None:
        fix = "name a function that returns the module, or the module and inputs"
        raise InputError("module", one_line_repr(reference), FORM, fix)
    package, function = parts.groups()
    say(f"Importing {package} and calling its {function}(): this runs the code in it.")
    with _working_directory_first():
        try:
            found: Any = importlib.import_module(package)
            for name in function.split("."):
                found = getattr(found, name)
            result = found()
        except Exception as error:  # a user's code raises what it likes
            got = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"module {reference}", got, "a module", "mend the function") from error
    if isinstance(result, tuple) and len(result) == 2:
        return result
    return result, None


@contextlib.contextmanager
def _working_directory_first() -> Iterator[None]:
    """While the block runs, modules are looked for in the working directory first, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)


def read_cases(out: Path, manifest: Manifest, request: VerifyRequest) -> list[Case] | None:
    """The sequences of the request's file; None without one."""
    if request.inputs is None:
        return None
    return cases_from_file(request.inputs, out, manifest, request.batch_sizes)


@dataclass(frozen=True)
class ModuleCalls:
    """What a module is compared on: the user's own `cases`, None for drawn ones; `arguments` of a call with
    other tensors, None to give these by name."""

    cases: list[Case] | None = None
    arguments: Arguments | None = None


def read_calls(manifest: Manifest, request: VerifyRequest, module: Any, inputs: Any) -> ModuleCalls:
    """Those of the request's `inputs`, or else of those that came with the module, which only show how it is
    called where sizes are asked for."""
    from reformer_export.export.module_values import name_inputs
    from reformer_export.parity.module_session import cases_from_arrays
    from reformer_export.reference.module import check_module

    check_module(module)
    if isinstance(request.inputs, Path):
        return ModuleCalls(cases_from_arrays(manifest, [read_named_arrays(request.inputs, manifest)]))
    calls = request.calls
    is_example = calls is None and (request.lengths is not None or request.batch_sizes is not None)
    if calls is None:
        calls = [] if inputs is None else calls_of(inputs)
    arguments, arrays = None, []
    names = {each.name for each in manifest.inputs}
    for each in calls:
        if isinstance(each, Mapping) and set(each) == names:
            arrays.append(each)
            continue
        found = name_inputs(module, each)
        arguments = found.arguments
        arrays.append(dict(zip(found.names, found.tensors, strict=True)))
    return ModuleCalls(cases_from_arrays(manifest, arrays) if arrays and not is_example else None, arguments)


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
