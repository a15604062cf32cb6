"""What `serve` adds to a run, and what it gains from many clients; every answer is compared.

    python -m benchmarks.bench_serving [--requests 20000] [--seconds 20] [--turns 3]

The shipped model, one thread a run and as many runs at once as cores, random tokens. One process is the
clients, another the server: on two cores they share what the model needs, too. "One by one" is one client of
the same server. Twenty minutes on a quiet machine with two cores; `--requests 0` leaves the long part out.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
import numpy as np

from benchmarks.models import SHIPPED, prepare_model
from benchmarks.report import Row, describe_machine, describe_run, print_table, write_results
from benchmarks.serving_load import (
    LENGTHS,
    Client,
    Load,
    Question,
    ServerProcess,
    make_question,
    make_questions,
    run_closed,
    run_paced,
    run_server,
)
from reformer_export.runtimes import Runtime, load

CLIENTS: Final = 64
OVERHEAD_LENGTH: Final = 512
QUESTIONS: Final = 192
"""Different requests; each is asked many times."""
MAX_OVERHEAD_MS: Final = 2.0
MIN_GAIN: Final = 1.5
MAX_P99: Final = 4.0
MEMORY_MARKS: Final = 5


@dataclass(frozen=True)
class Target:
    """What had to be reached."""

    words: str
    got: float
    limit: float
    is_least: bool = False

    @property
    def reached(self) -> bool:
        return self.got >= self.limit if self.is_least else self.got <= self.limit

    def __str__(self) -> str:
        side = "at least" if self.is_least else "at most"
        verdict = "reached" if self.reached else "NOT reached"
        return f"{self.words}: {self.got:.2f}, wanted {side} {self.limit:g}: {verdict}"


async def measure_overhead(
    server: ServerProcess, model: Runtime, pairs: int
) -> tuple[list[float], list[float]]:
    """Seconds of the server's answers and of runs here, in turns; the same input."""
    rng = np.random.default_rng(7)
    question = make_question(model, OVERHEAD_LENGTH, rng)
    ids = np.frombuffer(
        question.request, np.int64, OVERHEAD_LENGTH, len(question.request) - 8 * OVERHEAD_LENGTH
    )
    rows = ids.reshape(1, -1)
    client = await Client.connect(server.port)
    served, alone = [], []
    for turn in range(pairs + 5):  # the first ones warm up
        begun = time.perf_counter()
        assert await client.ask(question)
        middle = time.perf_counter()
        model.run(rows)
        ended = time.perf_counter()
        if turn >= 5:
            served.append(middle - begun)
            alone.append(ended - middle)
    client.close()
    return served, alone


async def measure_longest(server: ServerProcess, model: Runtime, count: int) -> float:
    """Seconds of the longest request when there is no other: the median."""
    question = make_question(model, LENGTHS[1], np.random.default_rng(8))
    return (await run_closed(server.port, 1, [question], requests=count)).quantile(0.5)


@dataclass
class Turns:
    """Loads of one client and of many, which took turns."""

    one: list[Load]
    many: list[Load]
    paced: Load

    @property
    def gain(self) -> float:
        """Requests a second of many over those of one: the median of neighbours."""
        return statistics.median(many.rate / one.rate for one, many in zip(self.one, self.many, strict=True))


async def measure_turns(
    server: ServerProcess, questions: Sequence[Question], turns: int, seconds: float
) -> Turns:
    """One client, many, and many that ask `MIN_GAIN` times as often as one could."""
    found = Turns([], [], Load())
    for _ in range(turns):
        found.one.append(await run_closed(server.port, 1, questions, seconds))
        found.many.append(await run_closed(server.port, CLIENTS, questions, seconds))
        rate = MIN_GAIN * found.one[-1].rate
        found.paced += await run_paced(server.port, CLIENTS, questions, rate, seconds)
    return found


async def measure_memory(
    server: ServerProcess, questions: Sequence[Question], requests: int
) -> tuple[Load, list[tuple[int, int, int]]]:
    """A long load; requests answered and bytes held by front and worker at some moments."""
    held: list[tuple[int, int, int]] = []
    marks = {round(requests * share / MEMORY_MARKS) for share in range(1, MEMORY_MARKS + 1)}

    def look(count: int) -> None:
        if count in marks:
            held.append((count, *server.count_held_bytes()))

    return await run_closed(server.port, CLIENTS, questions, requests=requests, on_answer=look), held


def describe_load(name: str, loads: Sequence[Load]) -> Row:
    """A line of the table."""
    whole = Load()
    for each in loads:
        whole += each
    return {
        "clients": name,
        "requests": f"{len(whole.seconds):,}",
        "requests/s": f"{whole.rate:.1f}",
        "tokens/s": f"{sum(whole.lengths) / whole.wall:,.0f}",
        "ms, median": f"{1e3 * whole.quantile(0.5):.0f}",
        "p99": f"{1e3 * whole.quantile(0.99):.0f}",
        "wrong": str(whole.wrong),
    }


@click.command(help=__doc__)
@click.option("--requests", default=20_000, show_default=True, help="Of the long load; 0 for none.")
@click.option("--seconds", default=20.0, show_default=True, help="Of each load in each turn.")
@click.option("--turns", default=3, show_default=True)
@click.option("--pairs", default=200, show_default=True, help="Of a served and a local run.")
@click.option("--name", default="serving", show_default=True, help="Of the result files.")
def main(requests: int, seconds: float, turns: int, pairs: int, name: str) -> None:
    before = describe_machine()
    artifact = prepare_model(SHIPPED.name).artifact
    with load(artifact, provider="cpu", threads=1) as model, run_server(artifact) as server:
        questions = make_questions(model, QUESTIONS)
        served, alone = asyncio.run(measure_overhead(server, model, pairs))
        longest = asyncio.run(measure_longest(server, model, max(5, pairs // 10)))
        found = asyncio.run(measure_turns(server, questions, turns, seconds))
        long, held = Load(), []
        if requests:
            long, held = asyncio.run(measure_memory(server, questions, requests))
    overhead = statistics.median(a - b for a, b in zip(served, alone, strict=True))
    rows = [
        describe_load("1", found.one),
        describe_load(f"{CLIENTS}, at once", found.many),
        describe_load(f"{CLIENTS}, {MIN_GAIN} x the rate of 1", [found.paced]),
    ]
    if requests:
        rows.append(describe_load(f"{CLIENTS}, at once, long", [long]))
    wrong = sum(int(row["wrong"]) for row in rows)
    targets = [
        Target(
            f"ms that serve adds to a run of {OVERHEAD_LENGTH} tokens, median",
            1e3 * overhead,
            MAX_OVERHEAD_MS,
        ),
        Target(f"requests/s of {CLIENTS} clients over one by one", found.gain, MIN_GAIN, is_least=True),
        Target(
            f"p99 at {MIN_GAIN} x the rate of one by one, over a lone longest request",
            found.paced.quantile(0.99) / longest,
            MAX_P99,
        ),
        Target("wrong answers", wrong, 0),
    ]
    title = f"Serving: {LENGTHS[0]} to {LENGTHS[1]:,} tokens a request"
    print_table(title, rows)
    notes = list_notes(targets, served, alone, longest, held, before)
    for note in notes:
        click.echo(note)
    data = {"machine": before, "targets": [{**vars(each), "reached": each.reached} for each in targets]}
    data |= {"rows": [dict(row) for row in rows], "held_bytes": held, "longest_seconds": longest}
    data |= {"served_seconds": served, "alone_seconds": alone}
    write_results(name, title, rows, data, notes)


def list_notes(
    targets: Sequence[Target],
    served: Sequence[float],
    alone: Sequence[float],
    longest: float,
    held: Sequence[tuple[int, int, int]],
    before: dict[str, Any],
) -> list[str]:
    """What was measured how, the targets, memory and the machine."""
    notes = [
        f"{OVERHEAD_LENGTH} tokens: {1e3 * statistics.median(served):.2f} ms served, "
        f"{1e3 * statistics.median(alone):.2f} ms here, in {len(served)} pairs; a lone request of "
        f"{LENGTHS[1]:,} tokens: {1e3 * longest:.0f} ms.",
        f"{CLIENTS} clients that ask again at once keep {CLIENTS} requests waiting, so that one takes "
        f"{CLIENTS} / (requests/s) seconds whatever the server does; p99 is taken where clients ask "
        f"{MIN_GAIN} times as often as one by one could be answered, at moments that know of no answer.",
        *map(str, targets),
    ]
    if held:
        marks = ", ".join(
            f"{front / 1e6:.0f} + {worker / 1e6:.0f} MB at {count:,}" for count, front, worker in held
        )
        notes.append(f"Resident memory of front and worker over the long load: {marks} requests.")
    return [*notes, describe_run(describe_machine(), before)]


if __name__ == "__main__":
    main()
