"""What `generate` says: texts on standard output or JSON, speed on standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from reformer_export.artifact.files import replace_file
from reformer_export.batch import find_tokenizer
from reformer_export.cli.option_values import STANDARD_OUTPUT, write_json
from reformer_export.cli.summary_output import JsonSummaries
from reformer_export.runtimes import Runtime
from reformer_export.runtimes.generation import Generation
from reformer_export.runtimes.generation_batch import GenerationBatch
from reformer_export.runtimes.generation_cost import GenerationCost
from reformer_export.runtimes.tokenizer import Tokenizer, decode_stream


def show_generation(
    runtime: Runtime, generation: Generation, json_file: Path | None, *, streams: bool
) -> None:
    """Finish `generation` and show it: as it comes, where it `streams` and no JSON takes its place."""
    _show_note(generation)
    start = time.perf_counter()
    streams = streams and json_file != STANDARD_OUTPUT
    if streams:
        _print_generation(generation)
    else:
        list(generation)
    seconds = time.perf_counter() - start
    values = _describe(generation, generation.tokenizer or find_tokenizer(runtime))
    values |= {"seconds": seconds, "tokens_per_second": len(generation.ids) / seconds}
    values |= _describe_cost(generation.has_cache, generation.cost) | _describe_runtime(runtime)
    if json_file is not None and write_json(json_file, values):
        return
    if not streams:
        _print_generation(generation)
    speed = f"{len(generation.ids)} tokens in {seconds:.2f} s ({len(generation.ids) / seconds:.1f} tokens/s)"
    end = f"seed {generation.options.seed}, stopped by {generation.stop_reason}"
    click.echo(f"{speed}, {end}{_cost_in_words(generation.has_cache, generation.cost)}", err=True)


def show_generations(runtime: Runtime, generations: GenerationBatch, json_file: Path | None) -> None:
    """Show all `generations`, each under a line of its own as it is finished, or as one JSON object."""
    tokenizer = find_tokenizer(runtime)
    start = time.perf_counter()
    count = tokens = 0
    with _open_json(runtime, json_file) as json:
        for index, generation in enumerate(generations):
            count, tokens = count + 1, tokens + len(generation.ids)
            _show_note(generation, f"prompt {index + 1}: ")
            if json is not None:
                json.write_values({"index": index, **_describe(generation, tokenizer)})
            if json_file != STANDARD_OUTPUT:
                generation.tokenizer = tokenizer
                click.echo(f"{chr(10) if index else ''}==> {index + 1} <==")
                _print_generation(generation)
        seconds = time.perf_counter() - start
        if json is not None:
            rate = {"seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds}
            json.finish(rate | _describe_cost(generations.has_cache, generations.cost))
    if json_file != STANDARD_OUTPUT:
        done = f"{count} prompts, {tokens} tokens in {seconds:.2f} s ({tokens / seconds:.1f} tokens/s)"
        click.echo(f"{done}{_cost_in_words(generations.has_cache, generations.cost)}", err=True)


@contextmanager
def _open_json(runtime: Runtime, json_file: Path | None) -> Iterator[JsonSummaries | None]:
    """A writer of JSON to standard output or to `json_file`, which is whole when the block ends well."""
    if json_file is None:
        yield None
    elif json_file == STANDARD_OUTPUT:
        yield JsonSummaries(_describe_runtime(runtime), partial(click.echo, nl=False))
    else:
        with replace_file(json_file) as stream:
            yield JsonSummaries(_describe_runtime(runtime), lambda text: stream.write(text.encode()))


def _show_note(generation: Generation, place: str = "") -> None:
    if generation.note is not None:
        click.echo(f"Note: {place}{generation.note}.", err=True)


def _print_generation(generation: Generation) -> None:
    """Print what comes, at once: text, or ids with commas as --prompt-ids takes them."""
    if generation.tokenizer is not None:
        for piece in generation.pieces():
            click.echo(piece, nl=False)
    else:
        for index, token in enumerate(generation.ids or generation):
            click.echo(f",{token}" if index else str(token), nl=False)
    click.echo()


def _describe(generation: Generation, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """A finished generation in JSON values."""
    text = (
        None
        if tokenizer is None
        else "".join(decode_stream(tokenizer, generation.ids, generation.prompt_ids))
    )
    return {
        "prompt_ids": list(generation.prompt_ids),
        "ids": generation.ids,
        "text": text,
        "stop_reason": generation.stop_reason,
        "seed": generation.options.seed,
    }


def _describe_cost(has_cache: bool, cost: GenerationCost) -> dict[str, Any]:
    return {
        "cache": has_cache,
        "prompt_tokens_per_second": cost.prompt_tokens_per_second,
        "step_tokens_per_second": cost.step_tokens_per_second,
        "cache_bytes": cost.cache_bytes,
    }


def _cost_in_words(has_cache: bool, cost: GenerationCost) -> str:
    if not has_cache or cost.prompt_tokens_per_second is None:
        return ""
    steps = (
        "" if cost.step_tokens_per_second is None else f", steps {cost.step_tokens_per_second:.4g} tokens/s"
    )
    prompt = f"prompts {cost.prompt_tokens_per_second:.4g} tokens/s"
    return f"; {prompt}{steps}, {cost.cache_bytes / 1e6:.3g} MB of caches"


def _describe_runtime(runtime: Runtime) -> dict[str, Any]:
    return {"runtime": runtime.description, "providers": list(runtime.providers)}
