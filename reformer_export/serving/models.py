"""The models that are served: what the front process knows of each, its worker and its queue."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Final

from reformer_export.artifact.hub import locate_artifact
from reformer_export.artifact.manifest import MANIFEST_NAME, Manifest, read_manifest
from reformer_export.runtimes.source_config import SourceConfig, read_source_config
from reformer_export.runtimes.tokenizer import Tokenizer, load_tokenizer
from reformer_export.serving.batcher import Batcher, BatchLimits
from reformer_export.serving.joining import Joiner, make_joiner
from reformer_export.serving.messages import Start
from reformer_export.serving.options import Artifact, ServeOptions
from reformer_export.serving.worker import Say, Worker
from reformer_export.spec import ModelSpec

CPU_BATCH_TOKENS: Final = 256
"""On the CPU a row of 64 tokens takes as long alone as among others (measured with the shipped model)."""
GPU_BATCH_TOKENS: Final = 16384
"""A guess: not measured."""


class ServedModel:
    """One artifact: read here, run in its worker.

    Attributes:
        name: what requests call it.
        folder: where it lies.
        manifest: what it said of itself when the server started.
        config: padding and end tokens and labels.
        joiner: checks its requests, and which of them run together.
        worker: its process.
        read_at: when that was, in seconds since 1970.
        is_replaced: whether another artifact lies in its folder by now; the opened one goes on being served.
    """

    def __init__(self, artifact: Artifact, options: ServeOptions, say: Say) -> None:
        """Read the artifact; ArtifactError when it is missing or broken."""
        self.name = artifact.name
        located = locate_artifact(artifact.path, with_engines=options.runtime.is_engine)
        self.folder = Path(os.path.abspath(located))
        self.manifest: Manifest = read_manifest(self.folder)
        self.config: SourceConfig = read_source_config(self.folder, self.spec.vocab_size)
        self.joiner: Joiner = make_joiner(self.manifest, self.config.pad_token_id)
        self._say = say
        self._options = options
        self._identity = self._identify()
        self.read_at = int(time.time())
        self.is_replaced = False
        start = Start(
            str(self.folder),
            self.manifest.files,
            asdict(options.runtime),
            options.concurrency,
            options.max_streams,
            options.max_cache,
            max(2 * options.max_response, 2**20),
        )
        self.worker = Worker(start, start.max_response, self._say_of_model)
        self._batcher: Batcher | None = None

    @property
    def spec(self) -> ModelSpec:
        return self.manifest.spec

    @property
    def max_length(self) -> int:
        """Tokens: the model's greatest length, or that of an engine's profiles."""
        return self.spec.max_length if self.worker.facts is None else self.worker.facts.max_length

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """InputError where the artifact has none."""
        return load_tokenizer(self.folder, self.spec.vocab_size, self.manifest.tokenizer)

    @property
    def problem(self) -> str | None:
        """Why it is not ready; None when it is."""
        return self.worker.problem

    @property
    def batcher(self) -> Batcher:
        """The queue; there once the worker was ready."""
        assert self._batcher is not None
        return self._batcher

    async def start(self) -> None:
        """Open it in its worker; raises what is at fault."""
        facts = await self.worker.start()
        tokens = self._options.max_batch_tokens or (GPU_BATCH_TOKENS if facts.on_gpu else CPU_BATCH_TOKENS)
        limits = BatchLimits(
            self._options.max_batch,
            tokens,
            self._options.max_response,
            self._options.max_delay / 1e3,
            self._options.max_queue,
        )
        self._batcher = Batcher(self.joiner, self.worker, limits)
        self._say_of_model(
            "model_ready", pid=self.worker.pid, runs_on=facts.description, concurrency=facts.concurrency
        )

    def check_accepts(self) -> None:
        """NotReadyError where its worker does not run and may not for long."""
        self.worker.check_accepts()

    def look_for_replacement(self) -> None:
        """Say so, once, when another artifact was put where this one was."""
        if self.is_replaced or self._identify() == self._identity:
            return
        self.is_replaced = True
        self._say_of_model(
            "artifact_replaced",
            fix="the one that was opened goes on being served; start the server again for the new one",
        )

    def _identify(self) -> tuple[int, ...] | None:
        with suppress(OSError):
            found = (self.folder / MANIFEST_NAME).stat()
            return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
        return None

    def _say_of_model(self, event: str, **fields: object) -> None:
        self._say(event, model=self.name, **fields)


def read_models(options: ServeOptions, say: Say) -> dict[str, ServedModel]:
    """All models by name, none of them started."""
    return {artifact.name: ServedModel(artifact, options, say) for artifact in options.artifacts}


def list_problems(models: dict[str, ServedModel]) -> Iterator[str]:
    """Of the models that are not ready, a sentence each."""
    for model in models.values():
        if model.problem is not None:
            yield f"{model.name}: {model.problem}"
