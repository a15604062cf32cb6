"""What `serve` adds to a run, and what it gains from many clients; every answer is compared.

    python -m benchmarks.bench_serving [--seconds 20] [--turns 3] [--pairs 200]

The shipped model, one thread a run and as many runs at once as cores, random tokens. One process is the
clients, another the server: on two cores they share what the model needs, too. "One by one" is one client of
the same server. Six minutes on a quiet machine with two cores; load_serving.py is the long load. `--turns 0`
measures the overhead alone. The 99th percentile of a minute wavers by a sixth: more turns say more.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import click
import numpy as np

from benchmarks.models import SHIPPED, prepare_model
from benchmarks.report import Row, describe_machine, describe_run, print_table, write_results
from benchmarks.serving_load import (
    LENGTHS,
    Load,
    Question,
    ServerProcess,
    make_question,
    make_questions,
    run_closed,
    run_paced,
    run_pausing,
    run_server,
)
from benchmarks.serving_overhead import LENGTH, THIN, Overhead, measure_overhead
from reformer_export.runtimes import Runtime, load

CLIENTS: Final = 64
QUESTIONS: Final = 192
"""Different requests; each is asked many times."""
MAX_OVERHEAD_MS: Final = 2.0
MIN_GAIN: Final = 1.5
MAX_P99: Final = 4.0


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


async def measure_longest(server: ServerProcess, model: Runtime, count: int) -> float:
    """Seconds of the longest request when there is no other: the median."""
    question = make_question(model, LENGTHS[1], np.random.default_rng(8))
    return (await run_closed(server.port, 1, [question], requests=count)).quantile(0.5)


@dataclass
class Turns:
    """Loads of one client and of many, which took turns."""

    one: list[Load]
    many: list[Load]
    pausing: list[Load]
    paced: list[Load]

    @property
    def gain(self) -> float:
        """Requests a second of many over those of one: the median of neighbours."""
        return statistics.median(many.rate / one.rate for one, many in zip(self.one, self.many, strict=True))


async def measure_turns(
    server: ServerProcess, questions: Sequence[Question], turns: int, seconds: float
) -> Turns:
    """One client, many, and many that ask `MIN_GAIN` times as often as one could; each turn draws others."""
    found = Turns([], [], [], [])
    for turn in range(turns):
        asked = random.Random(turn).sample(questions, len(questions))
        found.one.append(await run_closed(server.port, 1, asked, seconds))
        found.many.append(await run_closed(server.port, CLIENTS, asked, seconds))
        rate = MIN_GAIN * found.one[-1].rate
        found.pausing.append(await run_pausing(server.port, CLIENTS, asked, rate, seconds, turn))
        found.paced.append(await run_paced(server.port, CLIENTS, asked, rate, seconds, turn))
    return found


def merge_loads(loads: Sequence[Load]) -> Load:
    """All of them as one."""
    whole = Load()
    for each in loads:
        whole += each
    return whole


def describe_load(name: str, loads: Sequence[Load]) -> Row:
    """A line of the table."""
    whole = merge_loads(loads)
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
@click.option("--seconds", default=20.0, show_default=True, help="Of each load in each turn.")
@click.option("--turns", default=3, show_default=True)
@click.option("--pairs", default=200, show_default=True, help="Of served and local runs.")
@click.option("--name", default="serving", show_default=True, help="Of the result files.")
def main(seconds: float, turns: int, pairs: int, name: str) -> None:
    before = describe_machine()
    artifact = prepare_model(SHIPPED.name).artifact
    with load(artifact, provider="cpu", threads=1) as model, run_server(artifact) as server:
        question = make_question(model, LENGTH, np.random.default_rng(7))
        overheads = measure_overhead(server, model, question, pairs)
        for note in describe_overhead(overheads):
            click.echo(note)
        if not turns:
            return
        questions = make_questions(model, QUESTIONS)
        longest = asyncio.run(measure_longest(server, model, max(5, pairs // 10)))
        found = asyncio.run(measure_turns(server, questions, turns, seconds))
    rows = [
        describe_load("1", found.one),
        describe_load(f"{CLIENTS}, at once", found.many),
        describe_load(f"{CLIENTS}, with pauses, {MIN_GAIN} x the rate of 1", found.pausing),
        describe_load(f"{CLIENTS}, at any moments, {MIN_GAIN} x the rate of 1", found.paced),
    ]
    targets = list_targets(found, overheads, longest)
    title = f"Serving: {LENGTHS[0]} to {LENGTHS[1]:,} tokens a request"
    print_table(title, rows)
    notes = list_notes(targets, overheads, longest, before)
    for note in notes:
        click.echo(note)
    data = {"machine": before, "targets": [{**vars(each), "reached": each.reached} for each in targets]}
    data |= {"rows": [dict(row) for row in rows], "longest_seconds": longest}
    data |= {"overheads": {client: vars(each) for client, each in overheads.items()}}
    write_results(name, title, rows, data, notes)


def list_targets(found: Turns, overheads: dict[str, Overhead], longest: float) -> list[Target]:
    """With what was got of each."""
    loads = [*found.one, *found.many, *found.pausing, *found.paced]
    p99s = {
        words: merge_loads(each).quantile(0.99) / longest
        for words, each in (("with pauses", found.pausing), ("at any moments", found.paced))
    }
    return [
        Target(
            f"ms that serve adds to a run of {LENGTH} tokens, by {THIN}, median",
            overheads[THIN].added_ms,
            MAX_OVERHEAD_MS,
        ),
        Target(f"requests/s of {CLIENTS} clients over one by one", found.gain, MIN_GAIN, is_least=True),
        *(
            Target(f"p99 {words}, at {MIN_GAIN} x the rate of one by one, over a lone longest", p99, MAX_P99)
            for words, p99 in p99s.items()
        ),
        Target("wrong answers", sum(load.wrong for load in loads), 0),
    ]


def describe_overhead(overheads: dict[str, Overhead]) -> list[str]:
    """A sentence for each client."""
    return [
        f"{LENGTH} tokens by {client}: {1e3 * statistics.median(each.served):.2f} ms served, "
        f"{1e3 * statistics.median(each.alone):.2f} ms here, in {len(each.served)} pairs: "
        f"{each.added_ms:.2f} ms more."
        for client, each in overheads.items()
    ]


def list_notes(
    targets: Sequence[Target], overheads: dict[str, Overhead], longest: float, before: dict[str, Any]
) -> list[str]:
    """What was measured how, the targets and the machine."""
    notes = [
        *describe_overhead(overheads),
        f"A lone request of {LENGTHS[1]:,} tokens: {1e3 * longest:.0f} ms.",
        f"{CLIENTS} clients that ask again at once keep {CLIENTS} requests waiting, so that one takes "
        f"{CLIENTS} / (requests/s) seconds whatever the server does; p99 is taken where clients ask "
        f"{MIN_GAIN} times as often as one by one could be answered: with pauses between an answer and the "
        "next request, as clients have that wait for their answers, and, harder, at moments that know of no "
        "answer, where what is late counts from when it was due.",
        *map(str, targets),
    ]
    return [*notes, describe_run(describe_machine(), before)]


if __name__ == "__main__":
    main()
