"""Memory of sequences that grow: their cache, and what a process of its own took for a prompt and steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from reformer_export.measure.memory import run_alone

if TYPE_CHECKING:
    from reformer_export.measure.decoders import DecodeSetup

OF_DECODING: Final = (
    "resident memory of a process that reads the prompt and takes a few steps: what it holds then beyond the "
    "loaded model, and its peak in all; cache: what the tokens left for the next ones"
)


@dataclass(frozen=True)
class DecodeMemory:
    """Bytes: once the model was loaded, after a few steps, at the peak (the prompt's, mostly), and of the
    cache alone; and the words for what was measured."""

    loaded_bytes: int
    held_bytes: int
    peak_bytes: int
    cache_bytes: int
    measured: str

    @property
    def growth_bytes(self) -> int:
        """What is held beyond the loaded model."""
        return self.held_bytes - self.loaded_bytes


def measure_decoding(contender: DecodeSetup, batch: int, length: int) -> DecodeMemory | None:
    """Continue `batch` prompts of `length` random tokens in a fresh process.

    Returns None where this system does not tell a process's memory.

    Raises:
        PassFailedError: the process ended without a result.
    """
    text = run_alone("reformer_export.measure.one_decoding", (contender, batch, length))
    return msgspec.json.decode(text, type=DecodeMemory | None)
