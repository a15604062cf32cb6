"""What weights and products of few bits buy and cost: one checkpoint in float32, bfloat16, int8 and int4.

    python -m benchmarks.bench_low_precision                        # models/kjv-bytes: size, speed, loss
    python -m benchmarks.bench_low_precision --model kjv-lucidrains
    python -m benchmarks.bench_low_precision --model enwik8 --lengths 256,1024,4096   # random: no loss
    python -m benchmarks.bench_low_precision --keeps --no-time      # which projections cost what, in int8

Loss and flips are against eager in float32 on the held-out books that the models were never shown (`bible`,
see models/README.md), or on `--data`. Contenders are timed in turns in this process.
"""

from __future__ import annotations

import functools
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.models import CACHE, SHAPES, SHIPPED, prepare_model, random_inputs, source_digest
from benchmarks.report import Row, describe_machine, print_table, write_results
from reformer_export import export_checkpoint
from reformer_export.artifact.manifest import read_manifest
from reformer_export.low_precision import PROJECTIONS
from reformer_export.lucidrains_spec import LucidrainsSpec
from reformer_export.measure.timing import time_in_turns
from reformer_export.parity.cost import CostResult, encode_text, measure_cost
from reformer_export.parity.session import open_session
from reformer_export.runtimes import RuntimeOptions, load
from reformer_export.spec import LocalAttentionSpec, ModelSpec

LUCIDRAINS: Final = SHIPPED.parent / "kjv-lucidrains"
MODELS: Final = (SHIPPED.name, LUCIDRAINS.name, *SHAPES)

CONTENDERS: Final[dict[str, dict[str, Any]]] = {
    "float32": {},
    "float16": {"dtype": "float16"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"weights": "int8"},
    "int4": {"weights": "int4", "opset": 21},
}
"""What each is exported with."""

NOTES: Final = (
    "MB: model.onnx and its weights. ms: the median pass, batch 1, native library, contenders in turns.",
    "flips: hashes in another bucket than the original's, of all layers and of the worst one; same first: "
    "predictions whose likeliest token is the original's; both, and bits per character, on the whole text.",
)

Artifacts = dict[str, tuple[Path, Path]]
"""By contender: its artifact, and the checkpoint."""


def prepare(model: str, names: dict[str, dict[str, Any]]) -> Artifacts:
    """Export the contenders, or take them from the cache if the same package source made them."""
    return {name: prepare_one(model, name, options) for name, options in names.items()}


def prepare_one(model: str, name: str, options: dict[str, Any]) -> tuple[Path, Path]:
    if model != LUCIDRAINS.name:
        checkpoint = prepare_model(model).checkpoint
        config = {}
    else:
        checkpoint = LUCIDRAINS / "model.safetensors"
        config = {"config": LUCIDRAINS / "kwargs.json", "tokenizer": "bytes"}
    artifact = CACHE / model / f"low-{name.replace(' ', '-')}-{source_digest()}"
    if not artifact.is_dir():
        export_checkpoint(checkpoint, artifact, verify=False, **config, **options)
    return artifact, checkpoint


def read_data(data: Path | None) -> str:
    """The text of the file `data`, or the held-out books."""
    if data is not None:
        return data.read_text(encoding="utf-8")
    sys.path.insert(0, str(SHIPPED.parent))
    import kjv_text

    return str(kjv_text.normalise(kjv_text.dump_bible())[1])


def measure_loss(artifacts: Artifacts, data: str, threads: int, length: int) -> CostResult:
    """All contenders on the text, each sequence once through eager."""
    options = RuntimeOptions(provider="cpu", threads=threads)
    with ExitStack() as stack:
        sessions: list[Any] = []
        for artifact, checkpoint in artifacts.values():
            eager = sessions[0].eager if sessions else None
            sessions.append(stack.enter_context(open_session(artifact, checkpoint, options, eager=eager)))
        text = encode_text(sessions[0].runtime, data)
        return measure_cost(sessions, text, "held out", length)


def measure_times(
    artifacts: Artifacts, lengths: list[int], threads: int, turns: int, seconds: float
) -> dict[int, dict[str, tuple[float, ...]]]:
    """Seconds of each pass, by length and contender."""
    options = RuntimeOptions(provider="cpu", threads=threads)
    runtimes = {name: load(artifact, options) for name, (artifact, _) in artifacts.items()}
    times = {}
    for length in lengths:
        click.echo(f"{length:,} tokens ...", err=True)
        ids = random_inputs(next(iter(runtimes.values())).spec.vocab_size, length)
        runs = {name: functools.partial(runtime.run, ids) for name, runtime in runtimes.items()}
        for run in runs.values():
            run()
        times[length] = time_in_turns(runs, turns, seconds)
    return times


def make_rows(
    artifacts: Artifacts, times: dict[int, dict[str, tuple[float, ...]]], cost: CostResult | None
) -> list[Row]:
    rows = []
    for index, (name, (artifact, _)) in enumerate(artifacts.items()):
        size = sum(path.stat().st_size for path in artifact.glob("model.onnx*"))
        row = {"artifact": name, "MB": f"{size / 1e6:,.2f}"}
        for length, seconds in times.items():
            row[f"{length:,} tokens, ms"] = f"{statistics.median(seconds[name]) * 1e3:,.1f}"
        if cost is not None:
            found, loss = cost.artifacts[index], cost.loss(cost.artifacts[index])
            worst = max(each.flips / max(each.hashed, 1) for each in found.layers)
            row["bits/character"] = f"{found.bits_per_character:.4f}"
            row["lost"] = f"{loss:+.4f}"
            row["flips"] = f"{found.flip_rate:.2%} (worst {worst:.2%})"
            row["same first"] = f"{found.agreement:.2%}"
        rows.append(row)
    return rows


@click.command(help=__doc__)
@click.option("--model", type=click.Choice(MODELS), default=SHIPPED.name, show_default=True)
@click.option("--lengths", default="256,1024,2048", show_default=True, help="Comma-separated.")
@click.option("--contenders", default=",".join(CONTENDERS), show_default=True, help="Comma-separated.")
@click.option("--data", type=click.Path(path_type=Path), help="In place of the held-out books.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
@click.option("--turns", type=click.IntRange(1), default=31, show_default=True, help="At most.")
@click.option("--seconds", default=30.0, show_default=True, help="Of timing, about, per length.")
@click.option("--time/--no-time", default=True, show_default=True)
@click.option("--keeps", is_flag=True, help="int8 with each projection kept, and with it alone.")
@click.option("--name", help="Of the result files.  [default: low-precision-MODEL]")
def main(
    model: str,
    lengths: str,
    contenders: str,
    data: Path | None,
    threads: int,
    turns: int,
    seconds: float,
    time: bool,
    keeps: bool,
    name: str | None,
) -> None:
    spec = read_manifest(prepare_one(model, "int8", CONTENDERS["int8"])[0]).spec
    chosen = {name: CONTENDERS[name] for name in contenders.split(",")}
    artifacts = prepare(model, {"int8": CONTENDERS["int8"], **list_keeps(spec)} if keeps else chosen)
    tokens = [int(length) for length in lengths.split(",")]
    times = measure_times(artifacts, tokens, threads, turns, seconds) if time else {}
    cost = None
    if model not in SHAPES:
        cost = measure_loss(artifacts, read_data(data), threads, spec.max_length)
    rows = make_rows(artifacts, times, cost)
    machine = describe_machine()
    title = f"{model}: precision of weights, {threads} threads"
    if cost is not None:
        title += f"; the original has {cost.bits_per_character:.4f} bits per character"
    print_table(title, rows)
    notes = [*NOTES, f"{machine['cpu']}, load {machine['load_average'][0]}, {machine['date']}."]
    values = {"machine": machine, "threads": threads, "seconds": times, "cost": cost and cost.to_dict()}
    write_results(name or f"low-precision-{model}{'-keeps' * keeps}", title, rows, values, notes)


def list_keeps(spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """int8 with one projection kept, and with all others kept."""
    is_local = any(isinstance(layer, LocalAttentionSpec) for layer in spec.layers)
    has_keys = is_local and not isinstance(spec, LucidrainsSpec)
    present = [name for name in PROJECTIONS if name not in ("query", "key") or has_keys]
    found = {}
    for name in present:
        found[f"int8 but {name}"] = {"weights": "int8", "keep": (name,)}
        others = tuple(other for other in present if other != name)
        found[f"int8 only {name}"] = {"weights": "int8", "keep": others}
    return found


if __name__ == "__main__":
    main()
