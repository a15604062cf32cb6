"""Generations side by side: a token for each at a time; they join and leave between."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from reformer_export.errors import ReformerExportError

if TYPE_CHECKING:
    from reformer_export.runtimes.decoding import DecodingState
    from reformer_export.runtimes.generation import Generation

    Refuse = Callable[[Generation, ReformerExportError], None]


class GenerationRows(Protocol):
    """`take` and `advance` alternate; generations join and leave between an `advance` and the next `take`."""

    def __len__(self) -> int:
        """Generations that run."""

    def join(self, generation: Generation) -> None:
        """Let a generation join that is not finished; its prompt is read."""

    def leave(self, generation: Generation) -> None:
        """Let a generation leave before its end; one that has left already may."""

    def take(self, refuse: Refuse | None = None) -> list[tuple[Generation, int | None]]:
        """The next token of each, None where it ends the text; those that are then finished have left.

        One that fails leaves, and `refuse` is told of it; without `refuse` its error is raised.
        """

    def advance(self) -> int:
        """Compute what follows the tokens that were taken; how many those were."""


class SteppingRows:
    """Generations in one decoding state, a step of which is a token for each."""

    def __init__(self, state: DecodingState) -> None:
        self._state = state
        self._keys: dict[Generation, int] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def join(self, generation: Generation) -> None:
        self._keys[generation] = self._state.add(generation.prompt_ids)

    def leave(self, generation: Generation) -> None:
        key = self._keys.pop(generation, None)
        if key is not None:
            self._state.remove(key)

    def take(self, refuse: Refuse | None = None) -> list[tuple[Generation, int | None]]:
        return _take_each(self, list(self._keys), self._draw, refuse)

    def _draw(self, generation: Generation) -> int | None:
        return generation.take(self._state.logits(self._keys[generation]))

    def advance(self) -> int:
        self._state.step({key: generation.ids[-1] for generation, key in self._keys.items()})
        for generation, key in self._keys.items():
            if generation.is_due_for_refresh():
                self._state.refresh(key)
        return len(self._keys)


class PassingRows:
    """Generations each token of which is a whole pass of its own."""

    def __init__(self) -> None:
        self._running: dict[Generation, None] = {}

    def __len__(self) -> int:
        return len(self._running)

    def join(self, generation: Generation) -> None:
        self._running[generation] = None

    def leave(self, generation: Generation) -> None:
        self._running.pop(generation, None)

    def take(self, refuse: Refuse | None = None) -> list[tuple[Generation, int | None]]:
        return _take_each(self, list(self._running), lambda generation: next(generation, None), refuse)

    def advance(self) -> int:
        return len(self._running)


def _take_each(
    rows: GenerationRows,
    running: list[Generation],
    draw: Callable[[Generation], int | None],
    refuse: Refuse | None,
) -> list[tuple[Generation, int | None]]:
    taken = []
    for generation in running:
        try:
            token = draw(generation)
        except ReformerExportError as error:
            if refuse is None:
                raise
            rows.leave(generation)
            refuse(generation, error)
            continue
        if token is None or generation.is_finished:
            rows.leave(generation)
        taken.append((generation, token))
    return taken
