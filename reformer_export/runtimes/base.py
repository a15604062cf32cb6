"""What every runtime offers: an artifact that is open and ready to run."""

from __future__ import annotations

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact.engine_record import EngineRecord
from reformer_export.artifact.hub import locate_artifact
from reformer_export.artifact.manifest import Manifest, check_files, read_manifest
from reformer_export.errors import InputError, ReformerExportError
from reformer_export.libraries.operators import NativeLibrary
from reformer_export.runtimes.generation import Generation, GenerationOptions, ids_from_prompt
from reformer_export.runtimes.inputs import IdsLike
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.options import RuntimeOptions
from reformer_export.runtimes.source_config import read_source_config
from reformer_export.runtimes.tokenizer import Tokenizer, load_tokenizer
from reformer_export.spec import ModelSpec

if TYPE_CHECKING:
    from typing_extensions import Self


class Runtime(ABC):
    """An artifact whose files were checked; one small subclass a runtime runs it.

    Attributes:
        folder: the artifact's.
        manifest: what the artifact says of itself.
        config: padding and end tokens and labels, from the checkpoint's config files.
        num_hashes: rounds of hashing of a run that names no other; None where the artifact leaves no choice.
    """

    def __init__(
        self, path: str | os.PathLike[str], options: RuntimeOptions, manifest: Manifest | None = None
    ) -> None:
        """Compare each file in the folder or hub repository `path` with its SHA-256 in `manifest`, else in
        the folder's own."""
        try:
            self.folder = locate_artifact(path, with_engines=options.is_engine)
        except TypeError as error:
            fix = "give its path, as text or a Path"
            raise InputError("path", repr(path), "an artifact's folder", fix) from error
        self.manifest = manifest or read_manifest(self.folder)
        self.num_hashes = choose_num_hashes(self.manifest, options.num_hashes)
        if options.check:
            check_files(self.folder, self.manifest)
        self.config = read_source_config(self.folder, self.spec.vocab_size)
        self._notes: list[str] = []

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""
        return self.manifest.spec

    @property
    def max_length(self) -> int:
        """The greatest sequence length, in tokens: the model's, or that of an engine's profiles."""
        return self.spec.max_length

    @property
    def notes(self) -> list[str]:
        """What a user should know of how this artifact was opened, a sentence each."""
        return list(self._notes)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back; an error says what the artifact, or this Python, lacks for it."""
        return load_tokenizer(self.folder, self.spec.vocab_size, self.manifest.tokenizer)

    @property
    def record(self) -> EngineRecord | None:
        """The engine that runs; None where model.onnx does."""
        return None

    @property
    def description(self) -> str:
        """What executes the graph, in a few words for people."""
        return self.providers[0]

    @property
    @abstractmethod
    def providers(self) -> tuple[str, ...]:
        """What executes the graph, preferred first, in the runtime's own words."""

    @property
    @abstractmethod
    def native(self) -> NativeLibrary | None:
        """The operator library whose kernels run the custom nodes; None where none does."""

    @abstractmethod
    def run(
        self,
        input_ids: IdsLike,
        attention_mask: IdsLike | None = None,
        num_hashes: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """One forward pass; see `OnnxRuntime.run`."""

    @abstractmethod
    def close(self) -> None:
        """Release what the runtime holds. Running afterwards is an error; closing again is not."""

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Generation:
        """Continue `prompt` (text or token ids); `options` are the fields of `GenerationOptions`.

        for piece in model.generate("In the beginning", max_new_tokens=100).pieces():
            print(piece, end="", flush=True)
        """
        if not isinstance(prompt, str):
            return Generation(self, ids_from_prompt(prompt), GenerationOptions(**options))
        return Generation(self, self.tokenizer.encode(prompt), GenerationOptions(**options), self.tokenizer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ReformerExportError:
            if error is None:  # else the error that is under way says what went wrong first
                raise
