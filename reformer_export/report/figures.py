"""Numbers -> drawings: SVG text in the page's own text colour, so that it fits light and dark."""

from __future__ import annotations

import atexit
import importlib
import io
import itertools
import math
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec

from reformer_export.errors import MissingDependencyError

P = ParamSpec("P")

SMALLEST_SHOWN: Final = 1e-9
"""Values of 0 stand here on a logarithmic axis."""

SMALLEST_SHARE: Final = 1e-4
"""Of a limit; smaller ones have its colour."""

BEYOND: Final = 2.0
"""Stands for every share above 1, infinity too."""

BEYOND_COLOUR: Final = "#d7263d"

MAX_WRITTEN_COLUMNS: Final = 12
"""Of more fields than this in a row, the numbers would run into each other."""

SMALLEST_DRIFT: Final = 1e-5
"""Of the logits' spread; smaller differences stand at the bottom."""

FEW_TENS: Final = 300
"""An axis from its lowest to so many times that has room for numbers at 1, 2 and 5."""

SERIES_COLOURS: Final = ("#3d85c8", "#d9762c", "#45a05c", "#b45fa5", "#8c8c8c", "#c9a227")
"""Told apart on white and on black, and by people who do not see red and green apart."""

_TEXT: Final = "#0a0b0c"
"""Stands for the page's text colour until the drawing is text."""

_COLOURED: Final = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
_STYLE: Final[dict[str, Any]] = {
    **dict.fromkeys(_COLOURED, _TEXT),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("legend.frameon", "axes.spines.top", "axes.spines.right"), False),
    "svg.fonttype": "none",
    "svg.hashsalt": "reformer-export",
    "font.size": 11.0,
}

Series = Mapping[str, Sequence[tuple[float, float]]]
"""A label -> its points."""


@dataclass(frozen=True)
class Drawing:
    """`svg` is an <svg> element; `alternative` says in words what it shows."""

    name: str
    title: str
    alternative: str
    svg: str


def import_extra(name: str) -> Any:
    """A module that pages are made with; MissingDependencyError names the extra that brings it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        fix = "pip install 'reformer-export[report]'"
        raise MissingDependencyError("report_file", f"'{error}'", "jinja2 and matplotlib", fix) from error


def _import_matplotlib() -> Any:
    """matplotlib, without the folders that it would make under HOME: nobody has asked for them.

    A user of it who has them keeps them, and what is set in $MPLCONFIGDIR.
    """
    homes = (("XDG_CONFIG_HOME", "~/.config"), ("XDG_CACHE_HOME", "~/.cache"))
    own = [Path(os.environ.get(name) or default).expanduser() / "matplotlib" for name, default in homes]
    if "matplotlib" in sys.modules or "MPLCONFIGDIR" in os.environ or any(path.is_dir() for path in own):
        return import_extra("matplotlib")
    folder = tempfile.mkdtemp(prefix="reformer-export-matplotlib-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder
    try:
        import_extra("matplotlib.font_manager")  # reads the variable, and lists the fonts once
    finally:
        del os.environ["MPLCONFIGDIR"]
    return import_extra("matplotlib")


def plain_number(value: float) -> str:
    """As people write it: 0.25, 4,096; from a million up and below a thousandth as the tables have it."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.10g}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:,.0f}"


def _write_plain_numbers(axis: Any) -> None:
    """Number the axis's ticks without powers and offsets; between the tens too where they are few."""
    ticker = import_extra("matplotlib.ticker")
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() == "log" and high < FEW_TENS * low:
        few = high < 5 * low
        axis.set_major_locator(ticker.MaxNLocator(5) if few else ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(ticker.NullFormatter())
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _place: plain_number(value)))


def draw(
    name: str,
    title: str,
    alternative: str,
    paint: Callable[Concatenate[Any, P], None],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Drawing:
    """The drawing `name` of a page: `paint` puts the other arguments on a matplotlib Figure."""
    matplotlib, figures = _import_matplotlib(), import_extra("matplotlib.figure")
    stream = io.StringIO()
    with matplotlib.rc_context(_STYLE | {"axes.prop_cycle": matplotlib.cycler(color=SERIES_COLOURS)}):
        figure = figures.Figure(figsize=(8.5, 3.6), layout="constrained")
        paint(figure, *args, **kwargs)
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    # Several drawings share one page: names of clip paths and markers must not meet.
    svg = text[text.index("<svg") :].replace(_TEXT, "currentColor").replace('id="', f'id="{name}-')
    svg = svg.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    return Drawing(name, title, alternative, svg)


def paint_series(
    figure: Any, x: str, y: str, series: Series, line: str = "-", *, labels_above: bool = False
) -> None:
    """Curves, or with `line` "none" points, over a logarithmic x and y; zeros stand at the bottom.

    `labels_above`: for curves that leave no corner free.
    """
    axes = figure.subplots()
    markers = "ox_^vP" if line == "none" else "osD^vP"
    for (label, points), marker in zip(series.items(), markers * len(series), strict=False):
        values = [max(value, SMALLEST_SHOWN) for _, value in points]
        axes.plot([at for at, _ in points], values, marker=marker, linestyle=line, label=label)
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
    _write_plain_numbers(axes.xaxis)
    _write_plain_numbers(axes.yaxis)
    ticks = sorted({at for points in series.values() for at, _ in points})
    if len(ticks) <= 8 and all(right >= 1.4 * left for left, right in itertools.pairwise(ticks)):
        axes.set_xticks(ticks, [plain_number(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.grid(alpha=0.25)
    if labels_above:
        figure.legend(loc="outside upper left", ncols=2)
    else:
        axes.legend()


def paint_heat_map(
    figure: Any, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]], scale: str
) -> None:
    """A table of shares of a limit, `values` [rows][columns], as colours on a logarithmic scale.

    The scale is the same in every drawing, `SMALLEST_SHARE` to 1, and what is beyond the limit is red.
    Few values are written into their fields too.
    """
    figure.set_size_inches(8.5, 1.8 + 0.32 * len(rows))
    axes = figure.subplots()
    shown = [[min(max(value, SMALLEST_SHARE), BEYOND) for value in row] for row in values]
    norm = import_extra("matplotlib.colors").LogNorm(SMALLEST_SHARE, 1)
    colours = import_extra("matplotlib").colormaps["viridis"].with_extremes(over=BEYOND_COLOUR)
    image = axes.imshow(shown, norm=norm, aspect="auto", cmap=colours, interpolation="nearest")
    if len(columns) <= MAX_WRITTEN_COLUMNS:
        for (row, line), column in itertools.product(enumerate(values), range(len(columns))):
            bright = 0.1 < line[column] <= 1
            place = {"ha": "center", "va": "center", "fontsize": 8, "color": "black" if bright else "white"}
            axes.text(column, row, plain_number(float(f"{line[column]:.2g}")), **place)
    axes.set_yticks(range(len(rows)), rows)
    step = max(1, -(-len(columns) // 24))
    axes.set_xticks(range(0, len(columns), step), columns[::step], rotation=60, ha="right", fontsize=8)
    axes.spines[:].set_visible(False)
    _write_plain_numbers(figure.colorbar(image, label=scale, extend="max").ax.yaxis)


def paint_drift(
    figure: Any,
    curves: Series,
    spread: float,
    parted: Sequence[int],
) -> None:
    """Differences of logits over the position, on a logarithmic y: `curves` as points with the median of
    neighbours as a line; `spread`, what logits differ by among themselves, a line; `parted`, where another
    token comes first, ticks along the bottom."""
    axes = figure.subplots()
    shown = [value for points in curves.values() for _, value in points if value > 0]
    floor = 10 ** math.floor(math.log10(max(min([*shown, spread]), spread * SMALLEST_DRIFT)))
    lines = []
    for (label, points), colour in zip(curves.items(), SERIES_COLOURS, strict=False):
        at, values = [position for position, _ in points], [max(value, floor) for _, value in points]
        axes.scatter(at, values, s=16, color=colour, alpha=0.45, linewidths=0)
        lines.append(_smooth(at, values))
        axes.plot(*lines[-1], color=colour, linewidth=2, label=label)
    for above, below in itertools.pairwise(lines):
        axes.fill_between(above[0], below[1], above[1], color=SERIES_COLOURS[0], alpha=0.12, linewidth=0)
    axes.axhline(spread, linestyle="--", linewidth=1, color=_TEXT, label="spread of the logits themselves")
    if parted:
        place = {"marker": "|", "s": 160, "c": SERIES_COLOURS[3], "label": "another token first"}
        axes.scatter(parted, [floor] * len(parted), **place)
    axes.set(yscale="log", xlabel="position (tokens)", ylabel="difference of logits")
    axes.set_xlim(0, 1.02 * max(position for points in curves.values() for position, _ in points))
    axes.set_ylim(floor * 0.7, spread * 2)
    _write_plain_numbers(axes.xaxis)
    _write_plain_numbers(axes.yaxis)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside upper left", ncols=2, fontsize=9)


def _smooth(at: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """At each position once, the median of the values there and of a few neighbours on each side."""
    positions = sorted(set(at))
    there = [[value for where, value in zip(at, values, strict=True) if where == x] for x in positions]
    reach = max(1, len(positions) // 24)
    windows = [itertools.chain(*there[max(0, i - reach) : i + reach + 1]) for i in range(len(positions))]
    return positions, [statistics.median(window) for window in windows]


def paint_bars(figure: Any, x: str, bars: Sequence[tuple[str, float]]) -> None:
    """Horizontal bars, the first on top."""
    figure.set_size_inches(8.5, 1.0 + 0.3 * len(bars))
    axes = figure.subplots()
    axes.barh([label for label, _ in reversed(bars)], [value for _, value in reversed(bars)])
    axes.set_xlabel(x)
    _write_plain_numbers(axes.xaxis)
    axes.grid(axis="x", alpha=0.25)


def paint_margins(
    figure: Any,
    edges: Sequence[float],
    counts: Sequence[int],
    flips: Sequence[tuple[float, bool]],
    roundings: Mapping[str, float],
) -> None:
    """A histogram over a logarithmic margin: `counts` between `edges`; each flip (margin, explained) a tick;
    the spacing of each dtype's numbers a line."""
    axes = figure.subplots()
    axes.stairs(counts, edges, fill=True, alpha=0.6, label="hashes")
    height = 0.6 * max([*counts, 1])
    for explained, label, colour in ((True, "flip, explained", 1), (False, "flip, UNEXPLAINED", 3)):
        at = [max(margin, edges[0]) for margin, told in flips if told == explained]
        if at:
            axes.scatter(at, [height] * len(at), marker="|", s=160, label=label, c=SERIES_COLOURS[colour])
    for (dtype, rounding), style in zip(roundings.items(), ("--", ":", "-."), strict=False):
        axes.axvline(rounding, linestyle=style, color=_TEXT, linewidth=1, label=f"{dtype}'s rounding")
    axes.set(xscale="log", yscale="symlog", xlabel="margin (relative gap of the two best scores)")
    _write_plain_numbers(axes.xaxis)
    _write_plain_numbers(axes.yaxis)
    axes.set_ylabel("hashes")
    axes.legend(fontsize=8)


def paint_pattern(
    figure: Any,
    buckets: Sequence[int],
    attention: Sequence[Sequence[float]],
    listed: Sequence[Sequence[int]],
) -> None:
    """Three squares: one round's buckets by position, which keys a query sees, and full attention's weights.

    `buckets` [L]; `attention` [L][L], rows summing to 1; `listed` [L][L], how often a key is listed.
    """
    figure.set_size_inches(9.5, 3.4)
    colors = import_extra("matplotlib.colors")
    left, middle, right = figure.subplots(1, 3)
    left.scatter(range(len(buckets)), buckets, s=6)
    left.set(xlabel="position", ylabel="bucket", title="buckets, round 1")
    left.yaxis.set_major_locator(import_extra("matplotlib.ticker").MaxNLocator(integer=True))
    seen = [[float(count > 0) for count in row] for row in listed]
    middle.imshow(seen, cmap=colors.ListedColormap(["#00000000", SERIES_COLOURS[0]]), aspect="equal")
    middle.set(xlabel="key", ylabel="query", title="seen by LSH attention")
    weights = [[max(weight, 1e-4) for weight in row] for row in attention]
    image = right.imshow(weights, norm=colors.LogNorm(1e-4, 1), cmap="viridis", aspect="equal")
    right.set(xlabel="key", title="weight in full attention")
    _write_plain_numbers(figure.colorbar(image, ax=right, fraction=0.046).ax.yaxis)
