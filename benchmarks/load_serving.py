"""Many requests through `serve`, each answer compared to the last bit, and the memory held meanwhile.

    python -m benchmarks.load_serving [--requests 20000] [--clients 64] [--questions 384]

The shipped model; random tokens, every length from 16 to 1,024 as likely. So many different questions are
answered once beforehand by the model alone, in one thread; each is asked many times, in company that changes.
A line every twentieth of the way. Ends with status 1 if an answer was wrong or memory grew. About six minutes
on two quiet cores at the 58 requests a second of results/serving.md.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Final

import click

from benchmarks.bench_serving import Target, describe_load
from benchmarks.models import SHIPPED, prepare_model
from benchmarks.report import describe_machine, print_table, write_results
from benchmarks.serving_load import LENGTHS, Load, ServerProcess, make_questions, run_closed, run_server
from reformer_export.runtimes import load

MARKS: Final = 20
SETTLED: Final = 5
"""Marks after which memory must not grow any more: by then every length was seen."""
MAX_GROWTH_MB: Final = 32.0
"""Of front and worker together; what malloc keeps wavers by less."""


@dataclass
class Watch:
    """Looks at a load that goes on, `MARKS` times; `held`: answers, and bytes of front and worker then."""

    server: ServerProcess
    requests: int
    load: Load
    held: list[tuple[int, int, int]] = field(default_factory=list)
    begun: float = field(default_factory=time.perf_counter)

    def look(self, count: int) -> None:
        """Told of every answer."""
        if count * MARKS // self.requests <= len(self.held):
            return
        front, worker = self.server.count_held_bytes()
        self.held.append((count, front, worker))
        seconds = time.perf_counter() - self.begun
        left = seconds / count * (self.requests - count)
        click.echo(
            f"{count:,} of {self.requests:,}: {count / seconds:.1f}/s, {self.load.wrong} wrong, "
            f"{front / 1e6:.0f} + {worker / 1e6:.0f} MB, {left / 60:.1f} min left"
        )

    @property
    def growth_mb(self) -> float:
        """From when it had settled to the end."""
        totals = [front + worker for _, front, worker in self.held]
        return (totals[-1] - totals[min(SETTLED, len(totals)) - 1]) / 1e6


@click.command(help=__doc__)
@click.option("--requests", default=20_000, show_default=True)
@click.option("--clients", default=64, show_default=True, help="That ask again as soon as they are answered.")
@click.option("--questions", default=384, show_default=True, help="Different requests.")
@click.option("--name", default="serving-load", show_default=True, help="Of the result files.")
def main(requests: int, clients: int, questions: int, name: str) -> None:
    before = describe_machine()
    artifact = prepare_model(SHIPPED.name).artifact
    with load(artifact, provider="cpu", threads=1) as model:
        click.echo(f"Answers to {questions} questions, by the model alone ...")
        asked = make_questions(model, questions)
    found = Load()
    with run_server(artifact) as server:
        watch = Watch(server, requests, found)
        asyncio.run(
            run_closed(server.port, clients, asked, requests=requests, on_answer=watch.look, load=found)
        )
    rows = [describe_load(f"{clients}, at once", [found])]
    targets = [
        Target("wrong answers", found.wrong, 0),
        Target("MB that front and worker grew by after the first quarter", watch.growth_mb, MAX_GROWTH_MB),
    ]
    title = f"Serving, long: {LENGTHS[0]} to {LENGTHS[1]:,} tokens a request, {questions} different ones"
    print_table(title, rows)
    after = describe_machine()
    loads = f"load {before['load_average'][0]} before, {after['load_average'][0]} after"
    (_, front, worker), (_, last_front, last_worker) = watch.held[0], watch.held[-1]
    notes = [
        *map(str, targets),
        f"Resident memory of front and worker: {front / 1e6:.0f} + {worker / 1e6:.0f} MB at the first of "
        f"{len(watch.held)} looks, {last_front / 1e6:.0f} + {last_worker / 1e6:.0f} MB at the last; what "
        "they share is counted twice.",
        f"{found.wall / 60:.1f} minutes; {after['cpu']}, {after['cores']} cores, {loads}, {after['date']}.",
    ]
    for note in notes:
        click.echo(note)
    data = {"machine": before, "rows": [dict(row) for row in rows], "held_bytes": watch.held}
    write_results(name, title, rows, data, notes)
    sys.exit(0 if all(target.reached for target in targets) else 1)


if __name__ == "__main__":
    main()
