"""Continue a sequence with a text-generation artifact: one full forward pass a token.

There is no key/value cache: a Reformer's cached decoding gives other logits than its forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError
from reformer_export.runtimes.field_types import check_field_types
from reformer_export.runtimes.inputs import SupportsDLPack, array_from_other, row_from_input
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.sampling import SamplingOptions, require_integer, sample_token

if TYPE_CHECKING:
    from reformer_export.runtimes.base import Runtime
    from reformer_export.runtimes.tokenizer import Tokenizer

StopReason = Literal["eos_token", "max_new_tokens", "max_length"]
Prompt = str | Sequence[int] | NDArray[np.integer] | SupportsDLPack
"""Text, or a row of token ids: a sequence, or an array [length] of numpy, torch or another library."""


@dataclass(frozen=True)
class GenerationOptions(SamplingOptions):
    """When to stop, besides how to draw.

    `max_new_tokens` counts tokens after the prompt; `seed` seeds the draws, so that equal calls give equal
    texts; `eos_token_id` ends the text, one id or several (None: the checkpoint's own; empty: none);
    `num_hashes` is `Runtime.run`'s.
    """

    max_new_tokens: int = 256
    seed: int = 0
    eos_token_id: int | Sequence[int] | None = None
    num_hashes: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer("max_new_tokens", self.max_new_tokens, 1)
        require_integer("seed", self.seed, 0)
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
    return row_of_ids("prompt", prompt, "give text, or token ids such as [5, 6, 7]")


class Generation(Iterator[int]):
    """The tokens after a prompt, computed as they are asked for.

    Iterate for token ids, or over `pieces()` for text; `text` and `str()` finish the generation first.
    The token that ends the text is not part of it.

    Attributes:
        prompt_ids: the prompt, as token ids.
        ids: the tokens so far.
        tokenizer: makes the text; None when the prompt was token ids.
        stop_reason: why it ended; None while it has not.
    """

    def __init__(
        self,
        runtime: Runtime,
        prompt_ids: Sequence[int],
        options: GenerationOptions,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        spec = runtime.spec
        if spec.task != "text-generation":
            fix = 'export a language model with `task="text-generation"`, or use run'
            raise InputError("task", f"an artifact for {spec.task}", "text-generation", fix)
        length, longest = len(prompt_ids), runtime.max_length
        if length == 0:
            raise InputError("prompt", "no token", "at least one", "give some text to continue")
        if length > longest:
            raise InputError("prompt", f"{length} tokens", f"at most {longest}", "shorten it")
        choose_num_hashes(runtime.manifest, options.num_hashes)
        self.prompt_ids = tuple(prompt_ids)
        self.ids: list[int] = []
        self.stop_reason: StopReason | None = None
        self._runtime = runtime
        self._options = options
        self.tokenizer = tokenizer
        self._rng = np.random.default_rng(options.seed)
        self._eos_token_ids = options.choose_eos_token_ids(runtime.config.eos_token_ids)

    def __next__(self) -> int:
        if self.stop_reason is None and len(self.prompt_ids) + len(self.ids) >= self._runtime.max_length:
            self.stop_reason = "max_length"
        if self.stop_reason is None and len(self.ids) >= self._options.max_new_tokens:
            self.stop_reason = "max_new_tokens"
        if self.stop_reason is not None:
            raise StopIteration
        ids = [[*self.prompt_ids, *self.ids]]
        logits = self._runtime.run(ids, num_hashes=self._options.num_hashes)["logits"][0, -1]
        token = sample_token(logits, self._options, self._rng)
        if token in self._eos_token_ids:
            self.stop_reason = "eos_token"
            raise StopIteration
        self.ids.append(token)
        return token

    def pieces(self) -> Iterator[str]:
        """The text as it comes, in pieces of whole characters; InputError without a tokenizer."""
        if self.tokenizer is None:
            fix = "iterate over the token ids"
            raise InputError("tokenizer", "none for this artifact", "one to make text", fix)
        ids = itertools.chain(tuple(self.ids), self)
        yield from self.tokenizer.decode_stream(ids, self.prompt_ids)

    @property
    def text(self) -> str:
        """The whole continuation, without the prompt."""
        return "".join(self.pieces())

    def __str__(self) -> str:
        return self.text
