"""Continue a sequence with a text-generation artifact, token by token.

With decode.onnx each token is a step on what earlier tokens left (docs/decoding.md), without it, or where
that is wished, a pass over all of them.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError
from reformer_export.runtimes.cache_choice import choose_cache, explain_passes
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.generation_cost import GenerationCost
from reformer_export.runtimes.inputs import SupportsDLPack, array_from_other, row_from_input
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.sampling import SamplingOptions, require_integer, sample_token
from reformer_export.runtimes.tokenizer import decode_stream
from reformer_export.spec import ModelSpec

if TYPE_CHECKING:
    from reformer_export.runtimes.base import Runtime
    from reformer_export.runtimes.decoding import DecodingState
    from reformer_export.runtimes.tokenizer import Tokenizer

CacheUse = Literal["auto", "on", "off"]
StopReason = Literal["eos_token", "max_new_tokens", "max_length"]
Prompt = str | Sequence[int] | NDArray[np.integer] | SupportsDLPack
"""Text, or a row of token ids: a sequence, or an array [length] of numpy, torch or another library."""


@dataclass(frozen=True)
class GenerationOptions(SamplingOptions):
    """When to stop, besides how to draw.

    `max_new_tokens` counts tokens after the prompt; `seed` seeds the draws, so that equal calls give equal
    texts; `eos_token_id` ends the text, one id or several (None: the checkpoint's own; empty: none);
    `num_hashes` is `Runtime.run`'s. `cache`: "auto" steps with decode.onnx where the artifact has it and the
    runtime takes it, and the text as long as it may become; "on" insists, "off" takes a whole pass a token.
    `refresh`: when stepping, a whole pass again after so many tokens, so that they do not drift from it for
    longer; 0 for never.
    """

    max_new_tokens: int = 256
    seed: int = 0
    eos_token_id: int | Sequence[int] | None = None
    num_hashes: int | None = None
    cache: CacheUse = "auto"
    refresh: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("max_new_tokens", self.max_new_tokens, 1)
        require_integer("seed", self.seed, 0)
        require_integer("refresh", self.refresh, 0)
        check_field_types(self, but=("num_hashes", "eos_token_id"))
        for token_id in self._given_eos_token_ids():
            require_integer("eos_token_id", token_id, 0)

    def choose_eos_token_ids(self, checkpoint: tuple[int, ...]) -> tuple[int, ...]:
        """Those that were given, else the checkpoint's own."""
        return checkpoint if self.eos_token_id is None else self._given_eos_token_ids()

    def _given_eos_token_ids(self) -> tuple[int, ...]:
        given: Any = self.eos_token_id
        given = given.tolist() if isinstance(given, np.ndarray) else given
        if given is None:
            return ()
        is_row = isinstance(given, Sequence) and not isinstance(given, str | bytes)
        return tuple(given) if is_row else (given,)


class GenerationFields(TypedDict, total=False):
    """The fields of `GenerationOptions` as keywords, for type checkers and editors."""

    temperature: float
    top_k: int | None
    top_p: float
    max_new_tokens: int
    seed: int
    eos_token_id: int | Sequence[int] | None
    num_hashes: int | None
    cache: CacheUse
    refresh: int


def row_of_ids(what: str, values: object, fix: str) -> list[int]:
    """`values`, a row of integers on the host in any form, as a list; InputError for anything else."""
    if isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) == 0:
        return []
    if not isinstance(values, np.ndarray | Sequence):
        values = array_from_other(what, values, f"{fix}; what lies on a GPU must be copied to the host first")
    row = row_from_input(what, values, fix)
    if row.dtype == np.bool_:
        raise InputError(what, "booleans", "token ids", fix)
    return [int(token_id) for token_id in row]


def ids_from_prompt(prompt: object) -> list[int]:
    """The token ids of a prompt that is no text; InputError unless it is a row of integers."""
    fix = "give text, or token ids such as [5, 6, 7]; `generate_many` takes several"
    return row_of_ids("prompt", prompt, fix)


def check_writes(spec: ModelSpec) -> None:
    """InputError for a model that generates nothing."""
    if spec.task != "text-generation":
        fix = 'export a language model with `task="text-generation"`, or use run'
        raise InputError("task", f"an artifact for {spec.task}", "text-generation", fix)


class Generation(Iterator[int]):
    """The tokens after a prompt, computed as they are asked for.

    Iterate for token ids, or over `pieces()` for text; `text` and `str()` finish the generation first.
    The token that ends the text is not part of it.

    Attributes:
        prompt_ids: the prompt, as token ids.
        ids: the tokens so far.
        tokenizer: makes the text; None for the runtime's own, which a prompt of ids may do without.
        options: those it was started with.
        given: what the first tokens are, drawn before.
        stop_reason: why it ended; None while it has not.
        has_cache: whether a token is a step, and not a whole pass.
        note: why it is not, where it could be for a shorter text.
        cost: what it took.
    """

    def __init__(
        self,
        runtime: Runtime,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        tokenizer: Tokenizer | None = None,
        given: Sequence[int] = (),
    ) -> None:
        """`given`: what the first tokens are, as an interrupted generation with the same seed drew them;
        numbers are drawn for them, and the rest is as if nothing had come between."""
        check_writes(runtime.spec)
        length = len(prompt_ids)
        if length == 0:
            raise InputError("prompt", "no token", "at least one", "give some text to continue")
        choose_num_hashes(runtime.manifest, options.num_hashes)
        self.has_cache = choose_cache(runtime, options, length)
        self._longest = runtime.max_decoding_length if self.has_cache else runtime.max_length
        if length > self._longest:
            raise InputError("prompt", f"{length} tokens", f"at most {self._longest}", "shorten it")
        self.note = None if self.has_cache else explain_passes(runtime, options, length)
        self.prompt_ids = tuple(prompt_ids)
        self.ids: list[int] = []
        self.options = options
        self.tokenizer = tokenizer
        self.stop_reason: StopReason | None = None
        self.cost = GenerationCost()
        self._runtime = runtime
        self._state: DecodingState | None = None
        self._key = 0
        self.given = tuple(given)
        self._rng = np.random.default_rng(options.seed)
        self._eos_token_ids = frozenset(options.choose_eos_token_ids(runtime.config.eos_token_ids))

    @property
    def is_finished(self) -> bool:
        """Whether no token follows; `stop_reason` then says why."""
        if self.stop_reason is None and len(self.prompt_ids) + len(self.ids) >= self._longest:
            self.stop_reason = "max_length"
        if self.stop_reason is None and len(self.ids) >= self.options.max_new_tokens:
            self.stop_reason = "max_new_tokens"
        return self.stop_reason is not None

    def __next__(self) -> int:
        if self.is_finished:
            self._close()
            raise StopIteration
        begun = time.perf_counter()
        is_first = not self.ids
        token = self.take(self._step() if self.has_cache else self._pass())
        seconds = time.perf_counter() - begun
        if is_first:
            self.cost.add_prompt(len(self.prompt_ids), seconds)
        else:
            self.cost.add_steps(1, seconds)
        if token is None:
            self._close()
            raise StopIteration
        return token

    def take(self, logits: NDArray[np.float32]) -> int | None:
        """Choose the next token by `logits`, float32 [vocab_size], of what follows the tokens so far; None
        where it ends the text."""
        token = sample_token(logits, self.options, self._rng)
        if len(self.ids) < len(self.given):
            token = self.given[len(self.ids)]
        if token in self._eos_token_ids:
            self.stop_reason = "eos_token"
            return None
        self.ids.append(token)
        return token

    def is_due_for_refresh(self) -> bool:
        """Whether the tokens so far shall be passed over as a whole before the next."""
        refresh = self.options.refresh
        return refresh > 0 and len(self.ids) > 0 and len(self.ids) % refresh == 0

    def _pass(self) -> NDArray[np.float32]:
        ids = [[*self.prompt_ids, *self.ids]]
        logits: NDArray[np.float32] = self._runtime.run(ids, num_hashes=self.options.num_hashes)["logits"][
            0, -1
        ]
        return logits

    def _step(self) -> NDArray[np.float32]:
        """The logits by the state, which gets the tokens that it lacks: the last one, or, where a step was
        interrupted, none."""
        if self._state is None:
            state = self._runtime.start_decoding(self.options.num_hashes)
            self._key = state.add(self.prompt_ids)
            self._state = state
        state, key = self._state, self._key
        held = state.length(key) - len(self.prompt_ids)
        if held < len(self.ids):
            state.step({key: self.ids[held]})
            if self.is_due_for_refresh():
                state.refresh(key)
        self.cost.cache_bytes = max(self.cost.cache_bytes, state.nbytes)
        return state.logits(key)

    def _close(self) -> None:
        """Release the caches."""
        if self._state is not None:
            self._state.close()
            self._state = None

    def pieces(self) -> Iterator[str]:
        """The text as it comes, in pieces of whole characters; InputError where there is no tokenizer."""
        tokenizer = self.tokenizer or self._runtime.tokenizer
        ids = itertools.chain(tuple(self.ids), self)
        yield from decode_stream(tokenizer, ids, self.prompt_ids)

    @property
    def text(self) -> str:
        """The whole continuation, without the prompt."""
        return "".join(self.pieces())

    def __str__(self) -> str:
        return self.text
