"""An artifact against unpatched eager, in depth: on one runtime or several, eager loaded once."""

from __future__ import annotations

import dataclasses
import functools
import os
import shlex
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reformer_export.artifact.engine_record import ENGINE_RUNTIMES
from reformer_export.artifact.hub import locate_artifact
from reformer_export.artifact.manifest import Manifest, read_manifest
from reformer_export.errors import InputError
from reformer_export.libraries.packages import COMPARING, COMPARING_LUCIDRAINS, REPORTING, require_packages
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.measure.accuracy import (
    TokenText,
    check_data_length,
    check_predicts_tokens,
    count_passes,
    measure_accuracy,
    read_data,
)
from reformer_export.phases import log_phase
from reformer_export.report.verify_report import BisectReport, DataAccuracy, RuntimeReport, VerifyReport
from reformer_export.runtimes import Runtime, RuntimeOptions
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.options import ONNXRUNTIME, options_from_fields
from reformer_export.runtimes.ort import OnnxRuntime
from reformer_export.runtimes.replay import check_subgraph_folder
from reformer_export.spec import LSHAttentionSpec
from reformer_export.workflows.checkpoint_source import find_checkpoint
from reformer_export.workflows.progress import Progress, Say, say_nothing, show_no_progress
from reformer_export.workflows.verify_decoding import compare_decoding, has_decoding, report_drift
from reformer_export.workflows.verify_inputs import (
    ModuleCalls,
    check_eager_is_named,
    find_module,
    read_calls,
    read_cases,
)
from reformer_export.workflows.verify_request import VerifyRequest

__all__ = ["VerifyRequest", "verify_artifact"]

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

    from reformer_export.parity.cases import Case
    from reformer_export.parity.cost import CostResult
    from reformer_export.parity.results import VerifyResult
    from reformer_export.parity.session import ParitySession
    from reformer_export.reference.runs import Eager
    from reformer_export.workflows.fields import VerifyFields


def verify_artifact(
    out: str | os.PathLike[str],
    request: VerifyRequest | None = None,
    *,
    say: Say = say_nothing,
    progress: Progress = show_no_progress,
    **fields: Unpack[VerifyFields],
) -> VerifyReport:
    """Compare the artifact in the folder `out` with eager over lengths, batches and masks.

    Eager is the checkpoint's model; of an artifact of the task custom the `module` that it was made of.

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
    if isinstance(manifest.spec, LucidrainsSpec):
        require_packages("verifying", COMPARING_LUCIDRAINS)
    text = None
    if request.data is not None:
        check_predicts_tokens(manifest.spec)
        text = read_data(request.data)
    if request.data_length is not None:
        check_data_length(request.data_length, manifest.spec.max_length)
    for count in request.num_hashes:
        choose_num_hashes(manifest, count)
    check_eager_is_named(manifest, request)
    if not manifest.is_custom:
        for folder in request.beside:
            _check_beside(out, manifest, folder)
        calls = ModuleCalls(read_cases(out, manifest, request))
        return _Verification(out, manifest, request, None, text, calls, say, progress).run()
    if request.beside:
        got, expected = "it with an artifact of a module of your own", "one of a checkpoint"
        raise InputError("beside", got, expected, "leave it out")
    module, inputs = find_module(request, say)
    calls = read_calls(manifest, request, module, inputs)
    return _Verification(out, manifest, request, module, text, calls, say, progress).run()


@dataclass(frozen=True)
class _Verification:
    """One call of `verify_artifact`, whose options were checked; `module` is a user's own, None for a model
    from a checkpoint; `text` is that of `request.data`, `calls` are those of the inputs that were given."""

    out: Path
    manifest: Manifest
    request: VerifyRequest
    module: torch.nn.Module | None
    text: str | None
    calls: ModuleCalls
    say: Say
    progress: Progress

    def run(self) -> VerifyReport:
        eager = None
        report = VerifyReport(self.out, self.manifest, ())
        for runtime in self.request.runtimes:
            options = self.request.options_of(runtime)
            options = dataclasses.replace(options, check=not report.runtimes)  # its files are hashed once
            with self._open(options, eager) as session:
                if eager is None:
                    for note in session.eager.notes:
                        self.say(f"Note: {note}.")
                    report = self._add_constants(report, session)
                eager = session.eager
                report = self._add_runtime(report, session)
        return report

    def _add_constants(self, report: VerifyReport, session: ParitySession) -> VerifyReport:
        """`report` with what the files store, of a model from a checkpoint."""
        from reformer_export.parity.constants import check_constants

        if self.module is not None:
            return report
        with log_phase("comparing what is stored with the checkpoint"):
            constants = check_constants(self.out, self.manifest, session.eager)
        return dataclasses.replace(report, constants=constants)

    def _open(self, options: RuntimeOptions, eager: Eager | None) -> AbstractContextManager[ParitySession]:
        """A session; `eager` that of an earlier one."""
        from reformer_export.parity.module_session import open_module_session
        from reformer_export.parity.session import open_session

        on_cpu, seed = self.request.options_of(ONNXRUNTIME), self.request.seed
        if self.module is not None:
            return open_module_session(self.out, self.module, options, seed, on_cpu, self.calls.arguments)
        return open_session(self.out, self.checkpoint, options, seed, eager, on_cpu)

    @functools.cached_property
    def checkpoint(self) -> Path:
        """Where eager is loaded from."""
        return find_checkpoint(self.out, self.manifest, self.request.checkpoint)

    def _add_runtime(self, report: VerifyReport, session: ParitySession) -> VerifyReport:
        """`report` with what `session` gives."""
        from reformer_export.parity.cost import encode_text
        from reformer_export.parity.details import collect_details
        from reformer_export.parity.module_details import collect_module_details
        from reformer_export.parity.module_session import ModuleSession

        text = None if self.text is None else encode_text(session.runtime, self.text)
        sweep = self._sweep(session)
        accuracy = None if text is None else self._measure(session.runtime, text)
        decoding = drift = None
        if has_decoding(session):
            decoding = compare_decoding(session, self.request, self.progress)
            drift = report_drift(session, self.request, text, self.progress)
        cost = self._measure_cost(session, text) if self._has_cost else None
        runtime = RuntimeReport(sweep, accuracy, decoding, drift, cost)
        report = dataclasses.replace(report, runtimes=(*report.runtimes, runtime))
        if self.request.details and report.details is None:
            self.say("Looking inside the model for the report ...")
            cases = [case.case for case in sweep.cases]
            if isinstance(session, ModuleSession):
                details = collect_module_details(session, cases)
            else:
                details = collect_details(session, cases)
            report = dataclasses.replace(report, details=details)
        if self.request.bisect is not None and isinstance(session.runtime, OnnxRuntime):
            report = dataclasses.replace(report, bisect=self._bisect(session, sweep, self.request.bisect))
        return report

    def _sweep(self, session: ParitySession) -> VerifyResult:
        from reformer_export.parity.sweep import sweep

        cases = self._choose_cases(session)
        with self.progress("Compared cases", len(cases)) as advance:
            return sweep(session, cases, lambda _result: advance(1), self.request.given_tolerance)

    def _choose_cases(self, session: ParitySession) -> list[Case]:
        from reformer_export.parity.cases import add_num_hashes_cases
        from reformer_export.parity.sweep import takes_case

        request, chosen = self.request, self.calls.cases
        counts = dict.fromkeys(request.num_hashes)
        if chosen is None and request.lengths is None and request.batch_sizes is None and not counts:
            # Less those that an engine was not built for.
            return [case for case in session.default_cases() if takes_case(session.runtime, case)]
        if chosen is None:
            chosen = session.choose_cases(request.lengths, request.batch_sizes)
        if not counts:
            return add_num_hashes_cases(self.manifest, chosen)
        return [dataclasses.replace(case, num_hashes=count) for count in counts for case in chosen]

    def _measure(self, runtime: Runtime, text: TokenText) -> DataAccuracy:
        assert self.request.data is not None
        choice = self.manifest.runtime_num_hashes
        length = runtime.max_length if self.request.data_length is None else self.request.data_length
        counts: tuple[int | None, ...] = tuple(dict.fromkeys(self.request.num_hashes))
        if runtime.record is not None:
            counts = (runtime.record.num_hashes,)
        counts = counts or ((None,) if choice is None else choice.counts)
        passes = count_passes(len(text.ids), length, len(counts))
        with self.progress("Passes over the data", passes) as advance:
            measured = measure_accuracy(runtime, text, length, counts, advance)
        own = _own_num_hashes(self.manifest)
        rows = tuple(
            dataclasses.replace(row, num_hashes=own) if row.num_hashes is None else row
            for row in measured.rows
        )
        max_hashes = None if choice is None else choice.max_hashes
        return DataAccuracy(self.request.data.name, max_hashes, dataclasses.replace(measured, rows=rows))

    @property
    def _has_cost(self) -> bool:
        """Whether the artifact, or one beside it, is less precise than the original."""
        from reformer_export.parity.cost import is_lossy

        return self.module is None and (bool(self.request.beside) or is_lossy(self.manifest))

    def _measure_cost(self, session: ParitySession, text: TokenText | None) -> CostResult:
        """What the artifact, and those beside it, lose against the original."""
        from reformer_export.parity.cost import choose_length, choose_sequences, measure_cost

        name = None if self.request.data is None else self.request.data.name
        length = choose_length(session.spec, self.request.data_length)
        sequences = len(choose_sequences(session, text, length))
        with ExitStack() as stack:
            sessions = [session]
            for folder in self.request.beside:
                sessions.append(stack.enter_context(self._open_beside(session, folder)))
            with self.progress("Sequences beside the original", sequences) as advance:
                return measure_cost(sessions, text, name, length, advance)

    def _open_beside(self, session: ParitySession, folder: Path) -> AbstractContextManager[ParitySession]:
        """Another artifact of the same checkpoint, on ONNX Runtime."""
        from reformer_export.parity.session import open_session

        options = self.request.options_of(ONNXRUNTIME)
        return open_session(folder, Path(), options, self.request.seed, session.eager)

    def _bisect(self, session: ParitySession, sweep: VerifyResult, folder: Path) -> BisectReport:
        from reformer_export.parity.bisect import bisect, choose_failing_cases
        from reformer_export.parity.subgraph_folder import write_subgraph

        self.say("Comparing node by node ...")
        result = bisect(session, choose_failing_cases(sweep))
        written = write_subgraph(folder, result, session.placement)
        replay = shlex.join(["reformer-export", "replay", str(folder)]) if written else None
        return BisectReport(result, folder, replay)


def _check_beside(out: Path, manifest: Manifest, folder: Path) -> None:
    """InputError where the artifact in `folder` is of another checkpoint than that in `out`."""
    other = read_manifest(folder)
    if other.spec != manifest.spec or other.source.get("files") != manifest.source.get("files"):
        raise InputError(
            "beside",
            f"{folder}, an artifact of another checkpoint, or with other hashing, than {out}",
            "one of the same",
            "export it again from that checkpoint",
        )


def _own_num_hashes(manifest: Manifest) -> int | None:
    """The rounds of a model without a choice; None when it does not hash."""
    layers = [layer for layer in manifest.spec.layers if isinstance(layer, LSHAttentionSpec)]
    return layers[0].num_hashes if layers else None
