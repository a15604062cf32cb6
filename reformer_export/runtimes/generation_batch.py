"""Several prompts at once: they step together in one decoding state; as one ends, the next joins."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from reformer_export.errors import ReformerExportError
from reformer_export.runtimes.cache_choice import choose_cache
from reformer_export.runtimes.generation import (
    Generation,
    GenerationOptions,
    Prompt,
)
from reformer_export.runtimes.generation_cost import GenerationCost
from reformer_export.runtimes.generation_rows import SteppingRows
from reformer_export.runtimes.sampling import require_integer

if TYPE_CHECKING:
    from reformer_export.runtimes.base import Runtime

BATCH_SIZE: Final = 16
"""Sequences at a time where nobody says how many: on the CPU more gain little more."""


class GenerationBatch(Iterator[Generation]):
    """The generations of several prompts, in the prompts' order, each finished.

    A prompt that is refused ends the others: first those before it are continued to their ends.

    Attributes:
        has_cache: whether they step together, and not one after the other by whole passes; those that may
            get too long for that take whole passes all the same, and say so (`Generation.note`).
        cost: what all took so far.
    """

    def __init__(
        self,
        runtime: Runtime,
        prompts: Iterable[Prompt],
        options: GenerationOptions,
        batch_size: int,
        start: Callable[[Prompt, GenerationOptions], Generation],
    ) -> None:
        """`start` makes the generation of a prompt; see `Runtime.generate_many`."""
        require_integer("batch_size", batch_size, 1)
        self.has_cache = choose_cache(runtime, options)
        self.cost = GenerationCost()
        self._runtime = runtime
        self._options = options
        self._batch_size = batch_size
        self._begun = self._begin(prompts, start)
        self._refusal: ReformerExportError | None = None
        self._finished = self._step_together() if self.has_cache else self._pass_in_turn()

    def __next__(self) -> Generation:
        return next(self._finished)

    def _begin(
        self, prompts: Iterable[Prompt], start: Callable[[Prompt, GenerationOptions], Generation]
    ) -> Iterator[Generation]:
        for index, prompt in enumerate(prompts):
            yield start(prompt, dataclasses.replace(self._options, seed=self._options.seed + index))

    def _pass_in_turn(self) -> Iterator[Generation]:
        for generation in self._begun:
            self._finish_alone(generation)
            yield generation

    def _finish_alone(self, generation: Generation) -> None:
        for _ in generation:
            pass
        self.cost.add_prompt(generation.cost.prompt_tokens, generation.cost.prompt_seconds)
        self.cost.add_steps(generation.cost.step_tokens, generation.cost.step_seconds)

    def _step_together(self) -> Iterator[Generation]:
        order: list[Generation] = []
        with self._runtime.start_decoding(self._options.num_hashes) as state:
            rows = SteppingRows(state)
            while self._let_join(rows, order) or rows:
                begun = time.perf_counter()
                rows.take()
                self.cost.add_steps(rows.advance(), time.perf_counter() - begun)
                self.cost.cache_bytes = max(self.cost.cache_bytes, state.nbytes)
                while order and order[0].stop_reason is not None:
                    yield order.pop(0)
            yield from order
        if self._refusal is not None:
            raise self._refusal

    def _let_join(self, rows: SteppingRows, order: list[Generation]) -> bool:
        """Fill the free places; whether anybody joined."""
        has_joined = False
        while len(rows) < self._batch_size and self._refusal is None:
            try:
                generation = next(self._begun, None)
                if generation is None:
                    break
                begun = time.perf_counter()
<<<<<<< HEAD
                if not generation.is_finished:
                    rows.join(generation)
=======
                if not generation.has_cache:
                    self._finish_alone(generation)
                elif not generation.is_finished:
                    running[state.add(generation.prompt_ids)] = generation
>>>>>>> integration
                    self.cost.add_prompt(len(generation.prompt_ids), time.perf_counter() - begun)
            except ReformerExportError as error:
                self._refusal = error
                break
            order.append(generation)
            has_joined = True
        return has_joined
