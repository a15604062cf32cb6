"""Whether a text is continued by steps with decode.onnx, or by whole passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reformer_export.errors import InputError

if TYPE_CHECKING:
    from reformer_export.runtimes.base import Runtime
    from reformer_export.runtimes.generation import GenerationOptions


def choose_cache(runtime: Runtime, options: GenerationOptions, prompt_tokens: int | None = None) -> bool:
    """Whether to step with decode.onnx: after a prompt of so many tokens, or after any; InputError where the
    options want what there is not."""
    has_cache = options.cache != "off"
    if has_cache:
        try:
            runtime.check_decoding()
            if options.cache == "auto" and prompt_tokens is not None:
                has_cache = count_most(runtime, options, prompt_tokens) <= runtime.max_decoding_length
        except InputError:
            if options.cache == "on":
                raise
            has_cache = False
    if options.refresh and not has_cache:
        fix = "leave it out: every token takes a whole pass"
        raise InputError("refresh", f"{options.refresh} without a cache", "0", fix)
    return has_cache


def count_most(runtime: Runtime, options: GenerationOptions, prompt_tokens: int) -> int:
    """The tokens that a text may get, where a whole pass takes each; an engine of decode.onnx may have less
    room."""
    return min(prompt_tokens + options.max_new_tokens, runtime.max_length)


def explain_passes(runtime: Runtime, options: GenerationOptions, prompt_tokens: int) -> str | None:
    """Why a generation without a cache has none, where a shorter one would have it."""
    if options.cache == "off" or not choose_cache(runtime, options):
        return None
    most, longest = count_most(runtime, options, prompt_tokens), runtime.max_decoding_length
    return (
        f"every token takes a whole pass: steps take {longest} tokens at most, and this text may get {most}"
    )
