"""Progress of a stream: plain lines with what is left, a bar on a terminal; standard output is left alone."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import cast

import pytest

from reformer_export.batch import Source
from reformer_export.cli.stream_progress import show_stream_progress


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("stream_progress", "tables"):
        monkeypatch.setattr(f"reformer_export.cli.{module}.time", clock)
    return clock


def make_source(position: int, end: int | None, counts_lines: bool) -> Source:
    return cast(Source, SimpleNamespace(progress=(position, end), counts_lines=counts_lines))


def work(source: Source, clock: Clock, *, has_bar: bool = True) -> None:
    """8 lines, in steps of 1 and 3, each of which is 25 units and takes 2.5 s."""
    begin = source.progress[0]
    with show_stream_progress(source, has_bar=has_bar) as show:
        for done, lines in ((1, 1), (4, 3), (5, 1), (8, 3)):
            clock.now += 2.5 * lines
            show(done, begin + 25.0 * done)


def test_lines_of_a_file(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed one: what was there before counts for the share, not for the rate."""
    work(make_source(200, 1000, counts_lines=False), clock)
    assert capsys.readouterr().err.splitlines() == [
        "Sequences: 4 (30.0%), 0.4/s, 1:10 left",
        "Sequences: 8 (40.0%), 0.4/s, 1:00 left",
    ]


def test_lines_that_are_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(make_source(0, 500_000, counts_lines=True), clock)
    assert capsys.readouterr().err.splitlines()[-1] == "Sequences: 200 of 500000, 0.4/s, 13:53:00 left"


def test_a_stream_without_a_known_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work(make_source(0, None, counts_lines=False), clock)
    assert capsys.readouterr().err.splitlines() == ["Sequences: 4, 0.4/s", "Sequences: 8, 0.4/s"]


def test_lines_come_every_few_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_source(0, None, counts_lines=False)
    with show_stream_progress(source, has_bar=True) as show:
        for done in range(1, 101):
            clock.now += 0.125
            show(done, float(done))
    assert len(capsys.readouterr().err.splitlines()) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for end in (1000, None):
        work(make_source(0, end, counts_lines=False), clock)
        assert "8 done, 0.4/s" in terminal.getvalue()
        terminal.truncate(0)
    work(make_source(0, 1000, counts_lines=False), clock, has_bar=False)
    assert terminal.getvalue().strip("\0") == ""
    assert capsys.readouterr().out == ""


def test_one_sequence_shows_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with show_stream_progress(make_source(0, 1, counts_lines=True), has_bar=True) as show:
        clock.now += 60
        show(1, 1.0)
    assert capsys.readouterr().err == ""
