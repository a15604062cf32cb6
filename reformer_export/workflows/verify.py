"""An artifact against unpatched eager, in depth: on one runtime or several, eager loaded once."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from reformer_export.artifact.engine_record import ENGINE_RUNTIMES
from reformer_export.artifact.files import read_text
from reformer_export.artifact.hub import locate_artifact
from reformer_export.artifact.manifest import Manifest, read_manifest
from reformer_export.errors import InputError
from reformer_export.libraries.operators import NativeMode
from reformer_export.libraries.packages import COMPARING, REPORTING, require_packages
from reformer_export.measure.accuracy import (
    TokenText,
    check_predicts_tokens,
    count_passes,
    measure_accuracy,
)
from reformer_export.report.verify_report import BisectReport, DataAccuracy, RuntimeReport, VerifyReport
from reformer_export.runtimes import RUNTIMES, Runtime, RuntimeOptions
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.options import ONNXRUNTIME, Provider, RuntimeName, options_from_fields
from reformer_export.runtimes.ort import OnnxRuntime
from reformer_export.runtimes.replay import check_subgraph_folder
from reformer_export.spec import LSHAttentionSpec
from reformer_export.workflows.checkpoint_source import find_checkpoint
from reformer_export.workflows.progress import Progress, Say, say_nothing, show_no_progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from reformer_export.parity.cases import Case
    from reformer_export.parity.results import VerifyResult
    from reformer_export.parity.session import ParitySession
    from reformer_export.workflows.fields import VerifyFields


@dataclass(frozen=True)
class VerifyRequest:
    """What to compare, and on what.

    Attributes:
        checkpoint: folder or hub id; None for the one that was exported.
        runtimes: what runs the artifact.
        engine, cuda_graphs, allow_engine_code: of the TensorRT runtimes, as in `RuntimeOptions`.
        provider, native, threads: of ONNX Runtime, as in `RuntimeOptions`; with an engine they are for ONNX
            Runtime on the CPU, which runs model.onnx with pinned buckets beside it.
        tf32: as in `RuntimeOptions`; the comparison is then judged by that rounding.
        lengths: sequence lengths, tokens; None for those around the chunk lengths and up to the longest.
        batch_sizes: None for 1 to 3.
        num_hashes: numbers of hash rounds, for an artifact whose runs choose them; none for all, and a few
            inputs with fewer.
        data: a UTF-8 text, on which next-token loss and speed are measured for several numbers of hashes.
        data_length: tokens of a sequence that `data` is cut into; None for the longest that runs.
        bisect: a new folder; the first node that differs from eager is named, and written there.
        details: also look inside the model on the first runtime, for a report's pictures.
        seed: of the random inputs.
    """

    checkpoint: str | None = None
    runtimes: tuple[RuntimeName, ...] = (ONNXRUNTIME,)
    engine: str | None = None
    cuda_graphs: bool = False
    allow_engine_code: bool = False
    provider: Provider = "cpu"
    native: NativeMode = "auto"
    threads: int | None = None
    tf32: bool = False
    lengths: Sequence[int] | None = None
    batch_sizes: Sequence[int] | None = None
    num_hashes: Sequence[int] = ()
    data: Path | None = None
    data_length: int | None = None
    bisect: Path | None = None
    details: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        given = self.runtimes if isinstance(self.runtimes, list | tuple) else ()
        unknown = [name for name in given if isinstance(name, str) and name not in RUNTIMES]
        if unknown:
            raise InputError("runtimes", repr(unknown[0]), " or ".join(RUNTIMES), "name one")
        check_field_types(self)
        if not self.runtimes:
            raise InputError("runtimes", "none", " or ".join(RUNTIMES), "name one")
        is_engine = bool(set(self.runtimes) & set(ENGINE_RUNTIMES))
        of_engines = [name for name in ("engine", "cuda_graphs", "allow_engine_code") if getattr(self, name)]
        if of_engines and not is_engine:
            raise InputError(
                of_engines[0],
                "it with no TensorRT among the runtimes",
                "a runtime of TensorRT",
                f"add {' or '.join(ENGINE_RUNTIMES)} to `runtimes`",
            )
        if self.bisect is not None and ONNXRUNTIME not in self.runtimes:
            raise InputError(
                "bisect",
                f"{self.runtimes[0]}, whose nodes cannot be run one by one",
                f"{ONNXRUNTIME} among the runtimes",
                f"add {ONNXRUNTIME} to `runtimes`",
            )
        if self.tf32 and ONNXRUNTIME not in self.runtimes:
            raise InputError(
                "tf32",
                f"it with {self.runtimes[0]}, which computes in the types of the engine",
                f"{ONNXRUNTIME} among the runtimes",
                "leave it out",
            )
        self.options_of(ONNXRUNTIME)  # which refuses what does not go together, before any work
        if self.data is None and self.data_length is not None:
            raise InputError("data_length", f"{self.data_length} without a text", "`data` too", "add it")

    def options_of(self, runtime: RuntimeName) -> RuntimeOptions:
        """What opens `runtime`, with those of the options that are its own."""
        if runtime in ENGINE_RUNTIMES:
            return RuntimeOptions(
                runtime,
                engine=self.engine,
                cuda_graphs=self.cuda_graphs,
                allow_engine_code=self.allow_engine_code,
            )
        return RuntimeOptions(
            runtime, provider=self.provider, native=self.native, threads=self.threads, tf32=self.tf32
        )


def verify_artifact(
    out: str | os.PathLike[str],
    request: VerifyRequest | None = None,
    *,
    say: Say = say_nothing,
    progress: Progress = show_no_progress,
    **fields: Unpack[VerifyFields],
) -> VerifyReport:
    """Compare the artifact in the folder `out` with eager over lengths, batches and masks.

    Args:
        out: the artifact's folder, or its hub id.
        request: what to compare.
        say: is told what is being done, a line each.
        progress: is told how far the comparison is.
        fields: in place of `request`, fields of it.

    Raises:
        InputError: an option does not fit the artifact, or the checkpoint is not the one that was exported.
        ArtifactError: the artifact is broken.
        OutputError: `bisect` is a folder of something else.
        MissingDependencyError: torch, transformers or onnx is not installed.
    """
    request = options_from_fields(VerifyRequest, request, fields)
    require_packages("verifying", (*COMPARING, *(REPORTING if request.details else ())))
    out = locate_artifact(out, with_engines=bool(set(request.runtimes) & set(ENGINE_RUNTIMES)))
    if request.bisect is not None:
        check_subgraph_folder(request.bisect)
    manifest = read_manifest(out)
    text = None if request.data is None else _read_text(manifest, request.data)
    for count in request.num_hashes:
        choose_num_hashes(manifest, count)
    return _Verification(out, manifest, request, text, say, progress).run()


@dataclass(frozen=True)
class _Verification:
    """One call of `verify_artifact`, whose options were checked; `text` is that of `request.data`."""

    out: Path
    manifest: Manifest
    request: VerifyRequest
    text: str | None
    say: Say
    progress: Progress

    def run(self) -> VerifyReport:
        from reformer_export.parity.session import open_session

        checkpoint = find_checkpoint(self.out, self.manifest, self.request.checkpoint)
        eager = None
        report = VerifyReport(self.out, self.manifest, ())
        for runtime in self.request.runtimes:
            options, on_cpu = self.request.options_of(runtime), self.request.options_of(ONNXRUNTIME)
            options = dataclasses.replace(options, check=not report.runtimes)  # its files are hashed once
            with open_session(self.out, checkpoint, options, self.request.seed, eager, on_cpu) as session:
                if eager is None:
                    for note in session.eager.notes:
                        self.say(f"Note: {note}.")
                eager = session.eager
                report = self._add_runtime(report, session)
        return report

    def _add_runtime(self, report: VerifyReport, session: ParitySession) -> VerifyReport:
        """`report` with what `session` gives."""
        from reformer_export.parity.details import collect_details

        sweep = self._sweep(session)
        accuracy = None if self.text is None else self._measure(session.runtime, self.text)
        report = dataclasses.replace(report, runtimes=(*report.runtimes, RuntimeReport(sweep, accuracy)))
        if self.request.details and report.details is None:
            self.say("Looking inside the model for the report ...")
            details = collect_details(session, [case.case for case in sweep.cases])
            report = dataclasses.replace(report, details=details)
        if self.request.bisect is not None and isinstance(session.runtime, OnnxRuntime):
            report = dataclasses.replace(report, bisect=self._bisect(session, sweep, self.request.bisect))
        return report

    def _sweep(self, session: ParitySession) -> VerifyResult:
        from reformer_export.parity.sweep import sweep

        cases = self._choose_cases()
        request = self.request
        # The default cases, less those that an engine was not built for: only the open runtime knows.
        by_default = request.lengths is None and request.batch_sizes is None and not request.num_hashes
        with self.progress("Compared cases", len(cases)) as advance:
            return sweep(session, None if by_default else cases, lambda _result: advance(1))

    def _choose_cases(self) -> list[Case]:
        from reformer_export.parity.cases import add_num_hashes_cases, choose_cases

        chosen = choose_cases(self.manifest.spec, self.request.lengths, self.request.batch_sizes)
        counts = dict.fromkeys(self.request.num_hashes)
        if not counts:
            return add_num_hashes_cases(self.manifest, chosen)
        return [dataclasses.replace(case, num_hashes=count) for count in counts for case in chosen]

    def _measure(self, runtime: Runtime, text: str) -> DataAccuracy:
        assert self.request.data is not None
        choice = self.manifest.runtime_num_hashes
        length = runtime.max_length if self.request.data_length is None else self.request.data_length
        ids = np.asarray(runtime.tokenizer.encode(text), np.int64)
        counts: tuple[int | None, ...] = tuple(dict.fromkeys(self.request.num_hashes))
        counts = counts or ((None,) if choice is None else choice.counts)
        passes = count_passes(len(ids), length, len(counts))
        with self.progress("Passes over the data", passes) as advance:
            measured = measure_accuracy(runtime, TokenText(ids, len(text)), length, counts, advance)
        own = _own_num_hashes(self.manifest)
        rows = tuple(
            dataclasses.replace(row, num_hashes=own) if row.num_hashes is None else row
            for row in measured.rows
        )
        max_hashes = None if choice is None else choice.max_hashes
        return DataAccuracy(self.request.data.name, max_hashes, dataclasses.replace(measured, rows=rows))

    def _bisect(self, session: ParitySession, sweep: VerifyResult, folder: Path) -> BisectReport:
        from reformer_export.parity.bisect import bisect, choose_failing_cases
        from reformer_export.parity.subgraph_folder import write_subgraph

        self.say("Comparing node by node ...")
        result = bisect(session, choose_failing_cases(sweep))
        written = write_subgraph(folder, result, session.placement)
        replay = shlex.join(["reformer-export", "replay", str(folder)]) if written else None
        return BisectReport(result, folder, replay)


def _own_num_hashes(manifest: Manifest) -> int | None:
    """The rounds of a model without a choice; None when it does not hash."""
    layers = [layer for layer in manifest.spec.layers if isinstance(layer, LSHAttentionSpec)]
    return layers[0].num_hashes if layers else None


def _read_text(manifest: Manifest, path: Path) -> str:
    """The text in the file `path`, for a model that predicts every next token."""
    check_predicts_tokens(manifest.spec)
    text = read_text("data", path)
    if not text:
        raise InputError("data", f"{path}, which is empty", "some text", "give another file")
    return text
