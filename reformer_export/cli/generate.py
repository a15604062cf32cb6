"""`reformer-export generate`: continue a text, token by token."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from reformer_export.batch.sequences import ids_from_text
from reformer_export.cli.option_names import Command
from reformer_export.cli.runtime_options import (
    find_tokenizer,
    open_artifact,
    runtime_options,
)
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime, RuntimeOptions
from reformer_export.runtimes.generation import Generation


@click.command("generate", cls=Command)
@click.argument("out", type=click.Path())
@click.option("--prompt", metavar="TEXT", help="The text to continue.")
@click.option(
    "--prompt-file", type=click.Path(path_type=Path), help="A UTF-8 file with the text to continue."
)
@click.option("--prompt-ids", metavar="N,N,...", help="Token ids to continue; the output is ids too.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True)
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
    help="Ends the text; repeatable; default: the checkpoint's own.",
)
@click.option("--no-stream", is_flag=True, help="Print the text at the end, not as it comes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, at the end.")
@runtime_options
def command(
    out: str,
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
    as_json: bool,
    choice: RuntimeOptions,
) -> None:
    """Continue a prompt with the language model in the folder OUT.

    The continuation goes to standard output; speed and the reason for the end go to standard error. Every
    token takes a full forward pass: a Reformer's cached decoding would give other probabilities.

    \b
    Examples:
      reformer-export generate OUT --prompt "In the beginning"
      reformer-export generate OUT --prompt "Once" --temperature 0 --max-new-tokens 50
      reformer-export generate OUT --prompt-ids 75,112 --seed 3
    """
    given = _read_prompt(prompt, prompt_file, prompt_ids)
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
    if as_json or no_stream:
        list(generation)
    else:
        _stream(generation, as_text=isinstance(given, str))
    seconds = time.perf_counter() - start
    if as_json:
        _print_json(runtime, generation, seconds, seed)
        return
    if no_stream:
        _stream(generation, as_text=isinstance(given, str))
    speed = f"{len(generation.ids)} tokens in {seconds:.2f} s ({len(generation.ids) / seconds:.1f} tokens/s)"
    click.echo(f"{speed}, seed {seed}, stopped by {generation.stop_reason}", err=True)


def _read_prompt(prompt: str | None, prompt_file: Path | None, prompt_ids: str | None) -> str | list[int]:
    options = {"--prompt": prompt, "--prompt-file": prompt_file, "--prompt-ids": prompt_ids}
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise InputError("prompt", " and ".join(given) or "none", f"one of {', '.join(options)}", "give one")
    if prompt_ids is not None:
        return ids_from_text("prompt_ids", prompt_ids)
    if prompt is not None:
        return prompt
    assert prompt_file is not None
    try:
        return prompt_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "--prompt-file", f"{prompt_file}, which cannot be read ({error})", "UTF-8 text", "check it"
        ) from error


def _stream(generation: Generation, *, as_text: bool) -> None:
    """Print what comes, at once: text, or ids with commas as --prompt-ids takes them."""
    if as_text:
        for piece in generation.pieces():
            click.echo(piece, nl=False)
    else:
        for index, token in enumerate(generation.ids or generation):
            click.echo(f",{token}" if index else str(token), nl=False)
    click.echo()


def _print_json(runtime: Runtime, generation: Generation, seconds: float, seed: int) -> None:
    if generation.tokenizer is None:
        generation.tokenizer = find_tokenizer(runtime)
    report = {
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
    click.echo(json.dumps(report, indent=2))
