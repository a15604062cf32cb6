"""Where `run` puts results, as its options say: summaries on standard output, or a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reformer_export.batch.batching import Totals
from reformer_export.batch.outputs import (
    STANDARD_OUTPUT,
    ResultWriter,
    check_output_path,
    open_result_file,
)
from reformer_export.batch.results import SequenceResult, summarize_result
from reformer_export.batch.resume import Identity, check_partial, open_resumable_file
from reformer_export.batch.sequences import Source
from reformer_export.cli.runtime_options import find_tokenizer
from reformer_export.cli.summary_output import JsonSummaries, SummaryTables
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime


@dataclass(frozen=True)
class Target:
    """Where results go, as the options say."""

    path: Path | None
    as_json: bool
    resume: bool
    restart: bool

    def check(self) -> None:
        """Refuse, before any work, what cannot be written or does not fit together."""
        if self.path is not None:
            check_output_path(self.path)
        if self.path == STANDARD_OUTPUT and self.as_json:
            raise InputError("--json: got --output - too, expected one of them on standard output; choose")
        if self._is_jsonl:
            assert self.path is not None
            check_partial(self.path, resume=self.resume, restart=self.restart)
        elif self.resume or self.restart:
            option = "--resume" if self.resume else "--restart"
            raise InputError(
                f"{option}: got {f'--output {self.path}' if self.path else 'no --output'}, expected a .jsonl "
                "file, which alone can be gone on with; write one, or leave it out"
            )

    @property
    def _is_jsonl(self) -> bool:
        return self.path is not None and self.path.suffix == ".jsonl"

    @contextmanager
    def open(
        self, runtime: Runtime, source: Source, totals: Totals, identity: Identity
    ) -> Iterator[ResultWriter]:
        """The writer of results."""
        if self.resume and not source.resumable:
            raise InputError(
                "--resume: got an input that can be read only once, expected --file with a file; "
                "leave --resume out"
            )
        if self.path is None:
            yield self._open_summaries(runtime)
        elif self._is_jsonl and source.resumable:
            with open_resumable_file(self.path, source, identity, totals, resume=self.resume) as writer:
                yield writer
        else:
            with open_result_file(self.path) as writer:
                yield writer

    def _open_summaries(self, runtime: Runtime) -> ResultWriter:
        tokenizer = find_tokenizer(runtime.folder, runtime.spec.vocab_size)

        def summarize(result: SequenceResult) -> dict[str, Any]:
            return summarize_result(result, runtime.spec, runtime.config, tokenizer)

        if not self.as_json:
            return SummaryTables(summarize)
        head = {
            "artifact": str(runtime.folder),
            "task": runtime.spec.task,
            "providers": list(runtime.providers),
        }
        return JsonSummaries(head, summarize)
