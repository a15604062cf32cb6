"""One generation among others: its tokens, the text that they make, where it stops, who is told."""

from __future__ import annotations

import abc
from collections.abc import Sequence

from reformer_export.runtimes import Runtime
from reformer_export.runtimes.generation import Generation
from reformer_export.runtimes.inputs import check_prompt
from reformer_export.runtimes.tokenizer import TextStream
from reformer_export.serving.messages import Piece
from reformer_export.serving.stop_strings import StopStrings


class GenerationStream(abc.ABC):
    """Tokens that the `generation` has been given, another process drew and told: they count, and nothing of
    them is told again.

    `text` makes the tokens' text, None where there is no tokenizer; `stop`: texts before which it ends.

    Attributes:
        id: whose pieces they are.
        generation: what draws the tokens.
    """

    def __init__(
        self,
        model: Runtime,
        generation: Generation,
        text: TextStream | None,
        stop: Sequence[str] = (),
        request_id: int = 0,
    ) -> None:
        """Raises InputError for a prompt that the model does not take."""
        check_prompt(generation.prompt_ids, model.max_length, model.spec.vocab_size)
        self.id = request_id
        self.generation = generation
        self._text = text
        self._stops = StopStrings(stop)

    @property
    def most_tokens(self) -> int:
        """Of prompt and text, unless the model takes fewer."""
        return len(self.generation.prompt_ids) + self.generation.options.max_new_tokens

    @property
    def kind(self) -> tuple[bool, int | None]:
        """Those of one kind can step together: whether on caches, and then with how many hashes."""
        generation = self.generation
        return generation.has_cache, generation.options.num_hashes if generation.has_cache else None

    def read(self, token: int | None) -> Piece | None:
        """What the generation's next token means for the client; None ends the text."""
        generation = self.generation
        text = "" if token is None or self._text is None else self._stops.add(self._text.add(token))
        reason: str | None = generation.stop_reason
        if reason is not None and not self._stops.found and self._text is not None:
            text += self._stops.add(self._text.end())
            text += self._stops.end()
        if self._stops.found:
            reason = "stop_string"
        if reason is None and len(generation.ids) <= len(generation.given):
            return None
        return Piece(self.id, [] if token is None else [token], text, reason)

    @abc.abstractmethod
    def is_cancelled(self) -> bool:
        """Whether nobody waits for it any more."""

    @abc.abstractmethod
    def end(self, error: Exception | None) -> None:
        """No more comes, without a last piece: tell the error, or, None, nobody."""
