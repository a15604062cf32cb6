"""How fast an artifact writes, beside eager: prompts and tokens over context length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reformer_export.artifact.manifest import Manifest
from reformer_export.errors import InputError
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.measure import BenchmarkOptions
from reformer_export.measure.contenders import Device
from reformer_export.measure.decoders import ARTIFACTS, EAGERS, STEPS_OF_A_TURN, DecodeSetup
from reformer_export.measure.decoding import count_room, list_jobs, run_decode_benchmark
from reformer_export.report.decoding_page import DecodeReport
from reformer_export.runtimes import load
from reformer_export.workflows.bench_contenders import choose_setups, device_of
from reformer_export.workflows.progress import Progress, Say

if TYPE_CHECKING:
    from reformer_export.workflows.bench import BenchRequest

DECODE_LENGTHS: Final = (256, 1024, 4096, 16384, 65536)
"""Those of them that the model takes; where it takes no more than the last, also the longest."""


def bench_decoding(
    out: Path,
    manifest: Manifest,
    request: BenchRequest,
    options: BenchmarkOptions,
    say: Say,
    progress: Progress,
) -> DecodeReport:
    """Measure how the artifact in the folder `out` continues sequences; see `bench_artifact`. Of `options`,
    lengths are chosen here.

    Raises:
        InputError: the artifact or its runtime does not decode, or an option does not fit.
    """
    with load(out, request.runtime) as runtime:
        runtime.start_decoding().close()
        description, notes, longest = runtime.description, list(runtime.notes), runtime.max_length
        device = device_of(runtime)
    say(f"Runs on {description}.")
    lengths = choose_decode_lengths(longest, options, request.lengths)
    options = dataclasses.replace(options, lengths=lengths)
    setups, left_out = _choose_setups(out, manifest, request, device)
    notes += left_out
    for note in notes:
        say(f"Note: {note}")
    if request.lengths is None:
        say(f"Lengths: {', '.join(map(str, lengths))}.")
    shapes = len(lengths) * len(options.batch_sizes)
    with progress("Measured", len(list_jobs(setups, options)) + shapes) as advance:
        result = run_decode_benchmark(setups, options, longest, notes, advance)
    return DecodeReport(out, manifest, description, result)


def choose_decode_lengths(
    longest: int, options: BenchmarkOptions, given: Sequence[int] | None
) -> tuple[int, ...]:
    most = longest - STEPS_OF_A_TURN
    if most < 1:
        expected = f"more than {STEPS_OF_A_TURN}, the steps that are timed at once"
        raise InputError("decode", f"a model of at most {longest} tokens", expected, "leave `decode` out")
    if given is None:
        last = max(1, longest - count_room(longest, options))
        lengths = tuple(length for length in DECODE_LENGTHS if length < last)
        return lengths if last > DECODE_LENGTHS[-1] else (*lengths, last)
    for length in given:
        if not 1 <= length <= most:
            expected = f"lengths from 1 to {most}, which leave this artifact room for {STEPS_OF_A_TURN} steps"
            raise InputError("lengths", length, expected, "mend `lengths`")
    return tuple(given)


def _choose_setups(
    out: Path, manifest: Manifest, request: BenchRequest, device: Device
) -> tuple[list[DecodeSetup], list[str]]:
    """The artifact by steps and by passes, and eager likewise where it was asked for and can run here; else
    a note."""
    names = [name for name in request.contenders if name == "eager"]
    (artifact, *eager), left_out = choose_setups(names, out, manifest, request, device)
    setups = [DecodeSetup(name, artifact) for name in ARTIFACTS]
    # reformer-pytorch has no cache.
    eagers = EAGERS[:1] if isinstance(manifest.spec, LucidrainsSpec) else EAGERS
    return [*setups, *(DecodeSetup(name, each) for each in eager for name in eagers)], left_out
