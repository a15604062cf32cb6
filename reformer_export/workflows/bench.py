"""An artifact beside what it replaces: latency, throughput and memory, in one run and in turns."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from reformer_export.artifact.hub import locate_artifact
from reformer_export.artifact.manifest import MODEL_NAME, Manifest, read_manifest
from reformer_export.custom_spec import UNLIMITED
from reformer_export.errors import InputError
from reformer_export.measure import BenchmarkOptions, run_benchmark
from reformer_export.measure.contenders import AGAINST, Name, length_dimension
from reformer_export.measure.node_times import measure_node_times
from reformer_export.report.bench_page import FULL_ATTENTION, BenchReport
from reformer_export.report.decoding_page import DecodeReport
from reformer_export.runtimes import Runtime, RuntimeOptions, load
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.inputs import check_length
from reformer_export.runtimes.options import options_from_fields
from reformer_export.runtimes.ort import OnnxRuntime
from reformer_export.runtimes.ort_session import CPU, Placement
from reformer_export.workflows.bench_contenders import choose_setups, device_of
from reformer_export.workflows.bench_decoding import bench_decoding
from reformer_export.workflows.progress import Progress, Say, say_nothing, show_no_progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from reformer_export.workflows.fields import BenchFields

DEFAULT_LENGTHS: Final = (256, 1024, 4096)
"""Those of them that the model takes, and always the longest that it takes."""

DEFAULT_REPEAT: Final = 20

MAX_SECONDS_OF_A_SHAPE: Final = 60.0
"""Where nobody said how many passes: the longest input of a large model would take an hour."""


@dataclass(frozen=True)
class BenchRequest:
    """What to measure, and beside what.

    Attributes:
        runtime: what runs the artifact.
        checkpoint: folder or hub id, for eager; None for the one that was exported.
        decode: measure how it continues sequences: `lengths` are then those of prompts, which tokens follow,
            and a pass is 8 steps on a cache, or one whole pass where there is none.
        against: what to compare with, of `AGAINST`; None for all that there are: with `decode` eager, on its
            cache and without.
        lengths: sequence lengths, tokens; None for those of 256, 1024 and 4096 that fit, and the longest;
            with `decode` of 256, 1024, 4096, 16384 and 65536, and the longest where it is shorter.
        batch_sizes: batch sizes.
        repeat: timed passes of each contender at each shape, after `warm_up` untimed ones; None for 20, or
            as many as a minute allows, but three at least.
        memory: also measure peak memory, each contender in a process of its own.
        node_times: also measure each operator's time in one pass, with ONNX Runtime on the CPU; not with
            `decode`.
    """

    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    checkpoint: str | None = None
    decode: bool = False
    against: tuple[Name, ...] | None = None
    lengths: Sequence[int] | None = None
    batch_sizes: Sequence[int] = (1,)
    repeat: int | None = None
    warm_up: int = 2
    memory: bool = True
    node_times: bool = False

    def __post_init__(self) -> None:
        given = self.against if isinstance(self.against, list | tuple) else ()
        unknown = [name for name in given if isinstance(name, str) and name not in AGAINST]
        if unknown:
            raise InputError("against", repr(unknown[0]), f"of {', '.join(AGAINST)}", "name each once")
        check_field_types(self)
        if self.decode and FULL_ATTENTION in given:
            fix = 'leave it out: `against="eager"`'
            raise InputError("against", FULL_ATTENTION, "eager, which alone decodes beside it", fix)
        if self.decode and self.runtime.is_engine:
            expected = "onnxruntime: engines are not timed at decoding"
            raise InputError("runtime", self.runtime.runtime, expected, "leave `runtime` or `decode` out")
        for name, least in (("repeat", 1), ("warm_up", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise InputError(name, value, f"{least} or more", "give another")

    @property
    def contenders(self) -> tuple[Name, ...]:
        """What to compare with."""
        return AGAINST if self.against is None else tuple(self.against)


def bench_artifact(
    out: str | os.PathLike[str],
    request: BenchRequest | None = None,
    *,
    say: Say = say_nothing,
    progress: Progress = show_no_progress,
    **fields: Unpack[BenchFields],
) -> BenchReport | DecodeReport:
    """Measure the artifact in the folder `out` beside eager and full attention, on the device it runs on.

    Returns a BenchReport, or with `decode` a DecodeReport.

    Args:
        out: the artifact's folder, or its hub id.
        request: what to measure.
        say: is told what runs it, and what a user should know, a line each.
        progress: is told how far the measurement is.
        fields: in place of `request`, fields of it.

    Raises:
        InputError: an option does not fit the artifact.
        ArtifactError: the artifact is broken.
        RuntimeUnavailableError: this machine cannot run it.
    """
    request = options_from_fields(BenchRequest, request, fields)
    out = locate_artifact(out, with_engines=request.runtime.is_engine)
    manifest = read_manifest(out)
    options = BenchmarkOptions(
        (1,),  # chosen once the artifact is open
        tuple(request.batch_sizes),
        request.repeat or DEFAULT_REPEAT,
        request.warm_up,
        request.memory,
        MAX_SECONDS_OF_A_SHAPE if request.repeat is None else None,
    )
    if request.decode:
        return bench_decoding(out, manifest, request, options, say, progress)
    with load(out, request.runtime) as runtime:
        say(f"Runs on {runtime.description}.")
        description, notes = runtime.description, list(runtime.notes)
        device = device_of(runtime)
        lengths = _choose_lengths(runtime, request.lengths)
        if runtime.record is not None:  # eager hashes as often as the engine
            chosen = dataclasses.replace(request.runtime, num_hashes=runtime.record.num_hashes)
            request = dataclasses.replace(request, runtime=chosen)
        placement = runtime.placement if isinstance(runtime, OnnxRuntime) else None
    options = dataclasses.replace(options, lengths=lengths)
    setups, left_out = choose_setups(request.contenders, out, manifest, request, device)
    notes += left_out
    for note in notes:
        say(f"Note: {note}")
    if request.lengths is None:
        is_endless = manifest.is_custom and max(lengths) < runtime.max_length
        last = "" if is_endless else "; the last is the longest that it takes"
        say(f"Lengths: {', '.join(map(str, lengths))}{last}.")
    shapes = len(options.lengths) * len(options.batch_sizes)
    with progress("Measured", shapes * (len(setups) + 1)) as advance:
        result = run_benchmark(setups, options, notes, advance)
    nodes = None
    if request.node_times and placement is not None and _runs_as_in_file(manifest, placement):
        nodes = measure_node_times(out / MODEL_NAME, manifest, max(lengths), placement)
    return BenchReport(out, manifest, description, result, nodes, request.node_times)


def _runs_as_in_file(manifest: Manifest, placement: Placement) -> bool:
    """Whether the CPU runs model.onnx: in bfloat16, which ONNX Runtime has not got there, it is another
    graph."""
    return placement.provider == CPU and manifest.dtype != "bfloat16"


def _choose_lengths(runtime: Runtime, given: Sequence[int] | None) -> tuple[int, ...]:
    if runtime.manifest.is_custom:
        return _choose_custom_lengths(runtime.manifest, given)
    if given is None:
        shorter = (n for n in DEFAULT_LENGTHS if n < runtime.max_length and runtime.spec.takes_length(n))
        return (*shorter, runtime.max_length)
    for length in given:
        if not 1 <= length <= runtime.max_length:
            raise InputError(
                "lengths",
                length,
                f"lengths from 1 to {runtime.max_length}, which is what this artifact takes here",
                "mend `lengths`",
            )
        check_length(runtime.spec, length)
    return tuple(given)


def _choose_custom_lengths(manifest: Manifest, given: Sequence[int] | None) -> tuple[int, ...]:
    """Sizes of the dimension that is told as the length; 1 where there is none."""
    name = length_dimension(manifest)
    least, most = (1, 1) if name is None else manifest.signature.limits[name]
    if given is None:
        fitting = [length for length in DEFAULT_LENGTHS if least <= length < most]
        return (*fitting, most) if most < UNLIMITED else tuple(fitting)
    for length in given:
        if not least <= length <= most:
            expected = manifest.describe_sizes() if name else "1, as no dimension of the module is a length"
            raise InputError("lengths", length, expected, "mend `lengths`")
    return tuple(given)
