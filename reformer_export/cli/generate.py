"""`reformer-export generate`: continue texts, token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from reformer_export import batch
from reformer_export.artifact.files import read_text
from reformer_export.batch.lines import LineFormat
from reformer_export.batch.sequences import ids_from_text
from reformer_export.batch.sources import LINE_FORMATS
from reformer_export.cli.failures import end_by_signal, refuse_in_one_line
from reformer_export.cli.generate_output import show_generation, show_generations
from reformer_export.cli.option_names import Command
from reformer_export.cli.option_values import json_file_option, refuse_file_name
from reformer_export.cli.runtime_options import RUNTIME_SECTIONS, open_artifact, runtime_options
from reformer_export.errors import InputError
from reformer_export.runtimes import Runtime, RuntimeOptions
from reformer_export.runtimes.generation import GenerationOptions, Prompt
from reformer_export.runtimes.generation_batch import BATCH_SIZE

SECTIONS = {
    "Input": ("prompt", "prompt_file", "prompt_ids", "file", "line_format"),
    "Sampling": ("temperature", "top_k", "top_p", "seed"),
    "End": ("max_new_tokens", "eos_token_id"),
    "Steps": ("cache", "refresh", "rows"),
    "Output": ("no_stream", "json_file"),
    **RUNTIME_SECTIONS,
}


@click.command("generate", cls=Command, sections=SECTIONS)
@click.argument("out", type=click.Path())
@click.argument("text", required=False)
@click.option("--prompt", multiple=True, help="The text to continue, as TEXT; repeatable.")
@click.option(
    "--prompt-file", type=click.Path(path_type=Path), help="A UTF-8 file with the text to continue."
)
@click.option("--prompt-ids", metavar="N,N,...", help="Token ids to continue; the output is ids too.")
@click.option(
    "--file", type=click.Path(path_type=Path), help="A file of sequences, see above; - for standard input."
)
@click.option(
    "--format",
    "line_format",
    type=click.Choice(LINE_FORMATS),
    help="What the lines of --file are.  [default: as the name says; of standard input jsonl]",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=GenerationOptions.max_new_tokens,
    help="Ends the text after so many tokens.",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=GenerationOptions.temperature,
    help="Divides the logits; 0 always takes the likeliest token.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Draw among the K likeliest tokens only.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    default=GenerationOptions.top_p,
    help="Draw among the likeliest tokens that together have this probability.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    help="Of the draws: the same seed gives the same text. Several prompts have it and the numbers after it.",
)
@click.option(
    "--eos-token-id",
    type=int,
    multiple=True,
    help="Ends the text; repeatable.  [default: the checkpoint's own]",
)
@click.option(
    "--cache",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    help="Whether a token costs a step, with decode.onnx, or a whole pass; auto takes it if it is there.",
)
@click.option(
    "--refresh",
    type=click.IntRange(min=0),
    default=0,
    show_default=False,
    help="With a cache, a whole pass again every N tokens.  [default: never]",
)
@click.option(
    "--batch-size",
    "rows",
    type=click.IntRange(min=1),
    default=BATCH_SIZE,
    help="At most so many sequences at a time.",
)
@click.option("--no-stream", is_flag=True, help="Print the text at the end, not as it comes.")
@json_file_option
@runtime_options
def command(
    out: str,
    text: str | None,
    prompt: tuple[str, ...],
    prompt_file: Path | None,
    prompt_ids: str | None,
    file: Path | None,
    line_format: LineFormat | None,
    rows: int,
    no_stream: bool,
    json_file: Path | None,
    choice: RuntimeOptions,
    **options: Any,
) -> None:
    """Continue TEXT with the language model in the folder OUT.

    The continuation goes to standard output; speed and the reason for the end go to standard error. With
    decode.onnx (`onnx --decode`) a token costs a step, else a pass over the whole text.

    Several prompts, of --prompt or --file, are continued together; each text is what it would be alone, with
    the seed of its place. FILE is a .txt file with a prompt a line, or a .jsonl or .ndjson file with {"text":
    ...} or {"input_ids": [...]} a line.

    \b
    Examples:
      reformer-export generate OUT "In the beginning"
      reformer-export generate OUT "Once" --temperature 0 --max-new-tokens 50
      reformer-export generate OUT --prompt-ids 75,112 --seed 3
      reformer-export generate OUT --prompt "In the beginning" --prompt "And God said" --json -
      reformer-export generate OUT --file prompts.txt --batch-size 8
    """
    options["eos_token_id"] = options["eos_token_id"] or None
    one = _read_prompt(text, prompt, prompt_file, prompt_ids, file)
    if file is None and line_format is not None:
        raise InputError("--format", f"{line_format} without --file", "it with --file", "leave it out")
    if options["cache"] != "off":
        choice = dataclasses.replace(choice, open_for="generate")
    runtime = open_artifact(out, choice)
    if one is not None:
        show_generation(runtime, runtime.generate(one, **options), json_file, streams=not no_stream)
        return
    with (
        refuse_in_one_line("generating"),
        end_by_signal("the texts above are whole"),
        _open_prompts(runtime, prompt, file, line_format) as several,
    ):
        generations = runtime.generate_many(several, batch_size=rows, **options)
        show_generations(runtime, generations, json_file)


def _read_prompt(
    text: str | None,
    prompt: tuple[str, ...],
    prompt_file: Path | None,
    prompt_ids: str | None,
    file: Path | None,
) -> Prompt | None:
    """The only prompt; None where there may be several."""
    if text is not None:
        refuse_file_name(text, "--prompt-file")
    options = {
        "TEXT": text,
        "--prompt": prompt or None,
        "--prompt-file": prompt_file,
        "--prompt-ids": prompt_ids,
        "--file": file,
    }
    given = [name for name, value in options.items() if value is not None]
    if len(given) != 1:
        raise InputError("prompt", " and ".join(given) or "none", f"one of {', '.join(options)}", "give one")
    if prompt_ids is not None:
        return ids_from_text("prompt_ids", prompt_ids)
    if prompt_file is not None:
        return read_text("prompt_file", prompt_file)
    if len(prompt) == 1:
        return prompt[0]
    return text


@contextmanager
def _open_prompts(
    runtime: Runtime, prompts: tuple[str, ...], file: Path | None, line_format: LineFormat | None
) -> Iterator[Iterator[Prompt]]:
    """The prompts one by one, of the command line or of `file`."""
    if file is None:
        yield iter(prompts)
        return
    with batch.open_file(file, batch.SequenceReader.of(runtime), line_format) as source:
        yield _read_lines(source)


def _read_lines(source: batch.Source) -> Iterator[Prompt]:
    line = None
    for line in source:
        batch.refuse_bad_line(line)
        assert line.sequence is not None
        if not line.sequence.mask_or_ones.all():
            raise InputError(line.where, "an attention_mask with zeros", "a prompt without", "leave them out")
        yield line.sequence.ids
    if line is None:
        raise InputError("file", "a file without a line", "at least one prompt", "fill it")
