"""The body of a request to /v1/completions, in OpenAI's shape: read, checked, turned into generations."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from reformer_export.errors import InputError, one_line, one_line_repr
from reformer_export.runtimes.generation import GenerationOptions
from reformer_export.serving.json_values import read_json_rows
from reformer_export.serving.messages import Generate
from reformer_export.serving.refusals import UnknownNameError
from reformer_export.serving.stop_strings import check_stop_strings

MAX_CHOICES: Final = 128
"""Texts that one request may ask for."""
SEED_BITS: Final = 53
"""Of a seed that the server draws: as many as JSON's numbers carry everywhere."""

_UNSUPPORTED: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (None, 1),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None,),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
}
"""OpenAI's parameters that are not there, and the values that ask for nothing."""
MAX_NEUTRAL: Final = 64
"""Bytes of what is compared with those values."""

Prompt = str | NDArray[np.int64]
"""A text, or token ids."""

Integer = Annotated[int, msgspec.Meta(le=2**62)]
"""One that goes through to a worker as it is."""


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a stream shall say besides the text."""

    include_usage: bool = False


_NULL: Final = msgspec.Raw(b"null")


class CompletionBody(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The parameters, with OpenAI's defaults; `top_k` is ours. None means the default.

    What may be lists in lists stays JSON: a body can have so many that decoding them takes a second.
    """

    prompt: msgspec.Raw
    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Integer | None = None
    n: int | None = None
    seed: Integer | None = None
    stop: msgspec.Raw = _NULL
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    user: str | None = None
    best_of: msgspec.Raw = _NULL
    frequency_penalty: msgspec.Raw = _NULL
    logit_bias: msgspec.Raw = _NULL
    logprobs: msgspec.Raw = _NULL
    presence_penalty: msgspec.Raw = _NULL
    suffix: msgspec.Raw = _NULL


_Texts = msgspec.defstruct(
    "_Texts",
    [(f"text_{index}", str | msgspec.UnsetType, msgspec.UNSET) for index in range(MAX_CHOICES)],
    array_like=True,
    forbid_unknown_fields=True,
)
"""A list of texts, which is refused where it is too long, and not once all of them are decoded."""


def read_completion_body(body: bytes) -> CompletionBody:
    """The body's parameters; InputError, which names the one at fault, for anything else."""
    found: CompletionBody = _decode(body, CompletionBody)
    for name, neutral in _UNSUPPORTED.items():
        raw = getattr(found, name)
        value = _decode(raw, Any, name) if len(raw) <= MAX_NEUTRAL else f"{len(raw)} bytes"
        if isinstance(value, bool) or value not in neutral:
            raise InputError(
                name, one_line_repr(value), "no such parameter: it is not supported", "leave it out"
            )
    if found.stream_options is not None and not found.stream:
        raise InputError(
            "stream_options", "it without a stream", "none", "leave it out, or set stream to true"
        )
    return found


async def read_prompts(body: CompletionBody) -> Sequence[Prompt]:
    """The prompts: a text or a row of token ids, or several of either."""
    raw = bytes(body.prompt)
    if re.match(rb'(\[\s*)?"', raw):
        return _read_texts("prompt", raw)
    try:
        return await read_json_rows("prompt", raw, MAX_CHOICES)
    except InputError as error:
        expected = (
            f"a text, a list of texts, a list of token ids, or a list of such lists, {MAX_CHOICES} at most"
        )
        raise InputError("prompt", error.got, expected, "give a text to continue") from error


def _read_texts(what: str, raw: bytes) -> list[str]:
    """A text, or a list of texts."""
    if raw[:1] != b"[":
        return [_decode(raw, str, what)]
    texts = msgspec.structs.astuple(_decode(raw, _Texts, what))
    return [text for text in texts if text is not msgspec.UNSET]


def generations_from_body(
    body: CompletionBody, prompts: Sequence[Prompt], max_new_tokens: int
) -> list[tuple[Generate, bytes]]:
    """A message and its payload for each text that is asked for: `n` of the first prompt, then the second's.

    Text j of a prompt has the seed + j; without a seed, one is drawn, so that a generation can be repeated.
    """
    n = 1 if body.n is None else body.n
    if not (n >= 1 and n * len(prompts) <= MAX_CHOICES):
        got = f"{n} texts for each of {len(prompts)} prompts"
        raise InputError("n", got, f"1 to {MAX_CHOICES} texts in all", "send several requests")
    max_tokens = 16 if body.max_tokens is None else body.max_tokens
    if max_tokens > max_new_tokens:
        fix = "ask for fewer"
        raise InputError("max_tokens", max_tokens, f"at most {max_new_tokens}, this server's most", fix)
    stop = [] if body.stop == _NULL else _read_texts("stop", bytes(body.stop))
    check_stop_strings(stop)
    options = {
        "max_new_tokens": max_tokens,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "top_k": body.top_k,
        "seed": secrets.randbits(SEED_BITS) if body.seed is None else body.seed,
    }
    _check_options(options)
    found = []
    for prompt in prompts:
        is_text, payload = isinstance(prompt, str), _encode_prompt(prompt)
        for index in range(n):
            each = {**options, "seed": options["seed"] + index}  # type: ignore[operator]
            found.append((Generate(0, each, is_text, stop, bool(body.echo)), payload))
    return found


def _encode_prompt(prompt: Prompt) -> bytes:
    return prompt.encode("utf-8") if isinstance(prompt, str) else prompt.tobytes()


def _check_options(options: dict[str, Any]) -> None:
    """InputError in the request's own names."""
    try:
        GenerationOptions(**options)
    except InputError as error:
        name = "max_tokens" if error.what == "max_new_tokens" else error.what
        raise InputError(name, error.got, error.expected, error.fix) from error


def _decode(raw: bytes | msgspec.Raw, kind: Any, what: str = "body") -> Any:
    """A value in JSON of the type `kind`; InputError, which names the field of `what` at fault."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise _error_from_decoder(error, what) from error


def _error_from_decoder(error: Exception, what: str) -> InputError:
    """What the decoder found: "Expected `int | null`, got `str` - at `$.max_tokens`" and the like."""
    words = one_line(error)
    name = re.match(r"Object contains unknown field '(\w*)", words)
    if name is not None:
        kind = StreamOptions if "$.stream_options" in words else CompletionBody
        known = ", ".join(each for each in kind.__struct_fields__ if each not in _UNSUPPORTED)
        got, fix = "a parameter that there is not", "mend its name, or leave it out"
        return UnknownNameError(name[1] or "body", got, f"one of {known}", fix)
    place = re.search(r" - at '\$\.?(.*?)'", words)
    got = words if place is None else words[: place.start()]
    what = place[1] if what == "body" and place is not None and place[1] else what
    return InputError(what, f"what cannot be read ({got})", "a completion request in JSON", "mend it")
