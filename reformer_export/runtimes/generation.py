"""Continue a sequence with a text-generation artifact: one full forward pass a token.

There is no key/value cache: a Reformer's cached decoding gives other logits than its forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from reformer_export.errors import InputError
from reformer_export.runtimes.num_hashes import choose_num_hashes
from reformer_export.runtimes.sampling import SamplingOptions, require_integer, sample_token

if TYPE_CHECKING:
    from reformer_export.runtimes.base import Runtime
    from reformer_export.runtimes.tokenizer import Tokenizer

StopReason = Literal["eos_token", "max_new_tokens", "max_length"]


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
            raise InputError(
                f"task: got an artifact for {spec.task}, expected text-generation; "
                "export a language model with --task text-generation, or use run"
            )
        if len(prompt_ids) == 0:
            raise InputError("prompt: got no token, expected at least one; give some text to continue")
        if len(prompt_ids) > runtime.max_length:
            raise InputError(
                f"prompt: got {len(prompt_ids)} tokens, expected at most {runtime.max_length}; shorten it"
            )
        choose_num_hashes(runtime.manifest, options.num_hashes)
        self.prompt_ids = tuple(prompt_ids)
        self.ids: list[int] = []
        self.stop_reason: StopReason | None = None
        self._runtime = runtime
        self._options = options
        self.tokenizer = tokenizer
        self._rng = np.random.default_rng(options.seed)
        given = runtime.config.eos_token_ids if options.eos_token_id is None else options.eos_token_id
        self._eos_token_ids = (given,) if isinstance(given, int | np.integer) else tuple(given)

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
            raise InputError(
                "tokenizer: got none for this artifact, expected one to make text; iterate over the token ids"
            )
        decoder = self.tokenizer.incremental_decoder(self.prompt_ids)
        for token in itertools.chain(tuple(self.ids), self):
            if piece := decoder.push(token):
                yield piece
        if piece := decoder.finish():
            yield piece

    @property
    def text(self) -> str:
        """The whole continuation, without the prompt."""
        return "".join(self.pieces())

    def __str__(self) -> str:
        return self.text
