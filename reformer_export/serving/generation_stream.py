"""One generation of a worker: its tokens, the text that they make, where it stops."""

from __future__ import annotations

from reformer_export.runtimes import Runtime
from reformer_export.runtimes.cache_choice import choose_cache
from reformer_export.runtimes.generation import Generation, GenerationOptions
from reformer_export.runtimes.inputs import check_prompt
from reformer_export.runtimes.tokenizer import TextStream
from reformer_export.serving.messages import Begun, Generate, Piece
from reformer_export.serving.stop_strings import StopStrings


class GenerationStream:
    """What `message` asks of a model, whose `prompt` is its payload.

    Tokens that the message gives, another worker drew with the same seed and sent: they count, and nothing
    of them is told again.

    Attributes:
        id: the request's.
        generation: what draws the tokens.
        is_cancelled: whether nobody waits for it any more; set by any thread.
    """

    def __init__(self, model: Runtime, message: Generate, prompt: str | list[int]) -> None:
        tokenizer = model.tokenizer
        ids = model.read_prompt(prompt)
        self.id = message.id
        # With a cache wherever there is one: lanes have room for a text of any length, or it ends there.
        has_cache = choose_cache(model, GenerationOptions())
        options = GenerationOptions(cache="on" if has_cache else "off", **message.options)
        self.generation = Generation(model, ids, options, tokenizer, message.given)
        check_prompt(ids, model.max_length, model.spec.vocab_size)
        self.is_cancelled = False
        echoed = prompt if isinstance(prompt, str) else tokenizer.decode(ids)
        self.begun = Begun(self.id, len(ids), echoed if message.echo else "")
        self._text: TextStream = tokenizer.start_stream(ids)
        self._stops = StopStrings(message.stop)
        self._given = len(message.given)

    @property
    def most_tokens(self) -> int:
        """Of prompt and text, unless the model takes fewer."""
        return len(self.generation.prompt_ids) + self.generation.options.max_new_tokens

    def read(self, token: int | None) -> Piece | None:
        """What the generation's next token means for the client; None ends the text."""
        generation = self.generation
        text = "" if token is None else self._stops.add(self._text.add(token))
        reason: str | None = generation.stop_reason
        if reason is not None and not self._stops.found:
            text += self._stops.add(self._text.end())
            text += self._stops.end()
        if self._stops.found:
            reason = "stop_string"
        if reason is None and len(generation.ids) <= self._given:
            return None
        return Piece(self.id, [] if token is None else [token], text, reason)
