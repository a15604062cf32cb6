"""What every runtime's class shares: the artifact's own words, generation, closing."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact import Manifest, check_files, read_manifest
from reformer_export.errors import ReformerExportError
from reformer_export.native import NativeLibrary
from reformer_export.runtimes.dial import choose_num_hashes
from reformer_export.runtimes.generation import Generation, GenerationOptions
from reformer_export.runtimes.inputs import IdsLike
from reformer_export.runtimes.source_config import SourceConfig, read_source_config
from reformer_export.runtimes.tokenizer import load_tokenizer
from reformer_export.spec import ModelSpec

if TYPE_CHECKING:
    from typing_extensions import Self


class OpenedArtifact(ABC):
    """An artifact whose files were checked; a subclass runs it. Implements most of `Runtime`."""

    def __init__(
        self, path: str | os.PathLike[str], num_hashes: int | None = None, check: bool = True
    ) -> None:
        """Read the manifest in the folder `path` and compare every file with its SHA-256.

        `num_hashes`: the rounds of hashing of runs that name no other; None for all. `check`: False leaves
        the comparison out.
        """
        self._folder = Path(path)
        self._manifest = read_manifest(self._folder)
        self._num_hashes = choose_num_hashes(self._manifest, num_hashes)
        if check:
            check_files(self._folder, self._manifest)
        self._config = read_source_config(self._folder, self.spec.vocab_size)
        self._notes: list[str] = []

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def spec(self) -> ModelSpec:
        return self._manifest.spec

    @property
    def config(self) -> SourceConfig:
        return self._config

    @property
    def max_length(self) -> int:
        return self.spec.max_length

    @property
    def num_hashes(self) -> int | None:
        return self._num_hashes

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    @property
    @abstractmethod
    def providers(self) -> tuple[str, ...]:
        """What executes the graph, preferred first, in the runtime's own words."""

    @property
    @abstractmethod
    def native(self) -> NativeLibrary | None:
        """ONNX Runtime's operator library, where one runs the custom nodes."""

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
            return Generation(self, prompt, GenerationOptions(**options))
        tokenizer = load_tokenizer(self._folder, self.spec.vocab_size)
        return Generation(self, tokenizer.encode(prompt), GenerationOptions(**options), tokenizer)

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
