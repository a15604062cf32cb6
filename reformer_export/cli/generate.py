"""`reformer-export generate`: continue a text, token by token."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from reformer_export.artifact.files import read_text
from reformer_export.batch import find_tokenizer
from reformer_export.batch.sequences import ids_from_text
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import (
    STANDARD_OUTPUT,
    json_file_option,
    refuse_file_name,
    write_json,
)
from reformer_export.cli.runtime_options import RUNTIME_SECTIONS, open_artifact, runtime_options
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime, RuntimeOptions
from reformer_export.runtimes.generation import Generation

SECTIONS = {
    "Input": ("prompt", "prompt_file", "prompt_ids"),
    "Sampling": ("temperature", "top_k", "top_p", "seed"),
    "End": ("max_new_tokens", "eos_token_id"),
    "Output": ("no_stream", "json_file"),
    **RUNTIME_SECTIONS,
}


@click.command("generate", cls=Command, sections=SECTIONS)
@click.argument("out", type=click.Path())
@click.argument("text", required=False)
@click.option("--prompt", metavar="TEXT", help="The text to continue, as TEXT.")
@click.option(
    "--prompt-file", type=click.Path(path_type=Path), help="A UTF-8 file with the text to continue."
)
@click.option("--prompt-ids", metavar="N,N,...", help="Token ids to continue; the output is ids too.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Ends the text after so many tokens.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.8,
    show_default=True,
    help="Divides the logits; 0 always takes the likeliest token.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Draw among the K likeliest tokens only.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    show_default=True,
    help="Draw among the likeliest tokens that together have this probability.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the draws: the same seed gives the same text.",
)
@click.option(
    "--eos-token-id",
    type=int,
    multiple=True,
    help="Ends the text; repeatable.  [default: the checkpoint's own]",
)
@click.option("--no-stream", is_flag=True, help="Print the text at the end, not as it comes.")
@json_file_option
@runtime_options
def command(
    out: str,
    text: str | None,
    prompt: str | None,
    prompt_file: Path | None,
    prompt_ids: str | None,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float,
    seed: int,
    eos_token_id: tuple[int, ...],
    no_stream: bool,
    json_file: Path | None,
    choice: RuntimeOptions,
) -> None:
    """Continue TEXT with the language model in the folder OUT.

    The continuation goes to standard output; speed and the reason for the end go to standard error. Every
    token takes a full forward pass: a Reformer's cached decoding would give other probabilities.

    \b
    Examples:
      reformer-export generate OUT "In the beginning"
      reformer-export generate OUT "Once" --temperature 0 --max-new-tokens 50
      reformer-export generate OUT --prompt-ids 75,112 --seed 3
    """
    given = _read_prompt(text, prompt, prompt_file, prompt_ids)
    runtime = open_artifact(out, choice)
    generation = runtime.generate(
        given,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        eos_token_id=eos_token_id or None,
    )
    start = time.perf_counter()
    if json_file == STANDARD_OUTPUT or no_stream:
        list(generation)
    else:
        _stream(generation, as_text=isinstance(given, str))
    seconds = time.perf_counter() - start
    if json_file is not None and write_json(json_file, _describe(runtime, generation, seconds, seed)):
        return
    if no_stream:
        _stream(generation, as_text=isinstance(given, str))
    speed = f"{len(generation.ids)} tokens in {seconds:.2f} s ({len(generation.ids) / seconds:.1f} tokens/s)"
    click.echo(f"{speed}, seed {seed}, stopped by {generation.stop_reason}", err=True)


def _read_prompt(
    text: str | None, prompt: str | None, prompt_file: Path | None, prompt_ids: str | None
) -> str | list[int]:
    if text is not None:
        refuse_file_name(text, "--prompt-file")
    options = {"TEXT": text, "--prompt": prompt, "--prompt-file": prompt_file, "--prompt-ids": prompt_ids}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise InputError("prompt", " and ".join(given) or "none", f"one of {', '.join(options)}", "give one")
    if prompt_ids is not None:
        return ids_from_text("prompt_ids", prompt_ids)
    if text is not None or prompt is not None:
        return text or prompt or ""
    assert prompt_file is not None
    return read_text("prompt_file", prompt_file)


def _stream(generation: Generation, *, as_text: bool) -> None:
    """Print what comes, at once: text, or ids with commas as --prompt-ids takes them."""
    if as_text:
        for piece in generation.pieces():
            click.echo(piece, nl=False)
    else:
        for index, token in enumerate(generation.ids or generation):
            click.echo(f",{token}" if index else str(token), nl=False)
    click.echo()


def _describe(runtime: Runtime, generation: Generation, seconds: float, seed: int) -> dict[str, Any]:
    """The generation in JSON values."""
    if generation.tokenizer is None:
        generation.tokenizer = find_tokenizer(runtime)
    return {
        "prompt_ids": list(generation.prompt_ids),
        "ids": generation.ids,
        "text": None if generation.tokenizer is None else generation.text,
        "stop_reason": generation.stop_reason,
        "seed": seed,
        "seconds": seconds,
        "tokens_per_second": len(generation.ids) / seconds,
        "runtime": runtime.description,
        "providers": list(runtime.providers),
    }
