"""What every runtime offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reformer_export.artifact import Manifest
from reformer_export.native import NativeLibrary
from reformer_export.runtimes.generation import Generation
from reformer_export.runtimes.inputs import IdsLike
from reformer_export.runtimes.source_config import SourceConfig
from reformer_export.spec import ModelSpec

if TYPE_CHECKING:
    from typing_extensions import Self


class Runtime(Protocol):
    """An artifact that is open and ready to run."""

    @property
    def folder(self) -> Path:
        """The artifact's folder."""

    @property
    def manifest(self) -> Manifest:
        """What the artifact says of itself."""

    @property
    def spec(self) -> ModelSpec:
        """The model's description."""

    @property
    def config(self) -> SourceConfig:
        """Padding and end tokens and labels, from the checkpoint's config files."""

    @property
    def max_length(self) -> int:
        """The greatest sequence length, in tokens: the model's, or that of an engine's profiles."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What executes the graph, preferred first, in the runtime's own words."""

    @property
    def native(self) -> NativeLibrary | None:
        """The operator library whose kernels run the custom nodes; None where the function bodies do."""

    @property
    def num_hashes(self) -> int | None:
        """Rounds of hashing of a run that names no other; None where the artifact leaves no choice."""

    @property
    def notes(self) -> list[str]:
        """What a user should know of how this artifact was opened, a sentence each."""

    def run(
        self,
        input_ids: IdsLike,
        attention_mask: IdsLike | None = None,
        num_hashes: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """One forward pass; see `OnnxRuntime.run`."""

    def generate(self, prompt: str | Sequence[int], **options: Any) -> Generation:
        """Continue a prompt; see `OnnxRuntime.generate`."""

    def close(self) -> None:
        """Release what the runtime holds. Running afterwards is an error; closing again is not."""

    def __enter__(self) -> Self:
        """The runtime itself, which is closed at the end of the `with`."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`close`."""
