"""The report's pictures: time against size on logarithmic axes, and bars of ratios, each with the floor drawn in."""

import io
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.case import OURS
from benchmarks.result_file import LABELS, Row

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "vlae_fast", "font.size": 9, "axes.grid": True})
matplotlib.rcParams.update({"grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
OUR_COLOR, FLOOR_COLOR = "#c1272d", "#555555"
OTHER_COLORS = ("#1f77b4", "#2ca02c", "#9467bd", "#e08214", "#17a2b8", "#8c564b", "#7f7f7f")
MARKERS = "ovsD^P*"
AXIS_LABELS = {
    "N": "batch",
    "image": "rows and columns of an image",
    "channels": "channels",
    "layers": "mask-B layers (window)",
    "latent": "latent size",
    "hidden": "hidden units",
}


def in_size(axes: Axes, axis: str, rows: list[Row]) -> None:
    """Milliseconds a call against one axis of the size."""
    floor = {row.size[axis]: row.floor_seconds for row in rows}
    axes.fill_between(
        list(floor),
        [1e3 * s for s in floor.values()],
        1e-9,
        color=FLOOR_COLOR,
        alpha=0.12,
        lw=0,
        label="below the floor",
    )
    others = 0
    for contender in sorted({row.contender for row in rows}, key=lambda name: (name != OURS, name)):
        along = [row for row in rows if row.contender == contender]
        mine = contender == OURS
        color = OUR_COLOR if mine else OTHER_COLORS[others % len(OTHER_COLORS)]
        marker = MARKERS[0 if mine else 1 + others % (len(MARKERS) - 1)]
        others += not mine
        x, y = [row.size[axis] for row in along], [1e3 * row.median for row in along]
        label = LABELS.get(contender, contender)
        axes.plot(x, y, marker=marker, ms=4, lw=2.2 if mine else 1.1, color=color, label=label, zorder=3 if mine else 2)
    times = [1e3 * row.median for row in rows] + [1e3 * row.floor_seconds for row in rows]
    axes.set(xscale="log", yscale="log", xlabel=AXIS_LABELS.get(axis, axis), ylabel="ms a call")
    axes.set_ylim(min(times) / 1.6, max(times) * 1.6)
    axes.set_xticks(sorted(floor), [str(value) for value in sorted(floor)])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def in_ratios(axes: Axes, labels: Iterable[str], rows: list[Row]) -> None:
    """How many times our time each contender takes, with the quartiles of the pairs; the floor in the same measure."""
    labels = list(labels)
    places = range(len(rows))
    for place, row in zip(places, rows, strict=True):
        low, median, high = row.ratio
        axes.barh(place, median, color="#9db8d2" if row.same_work else "#d9c8a5", height=0.62, zorder=2)
        axes.plot([low, high], [place, place], color="black", lw=1.3, zorder=3)
        axes.annotate(f"{median:.3g}", (max(high, median), place), (4, 0), textcoords="offset points", va="center")
        share = row.floor_seconds / row.ours_seconds[1]
        axes.plot([share, share], [place - 0.4, place + 0.4], color=FLOOR_COLOR, lw=2.2, zorder=4)
    axes.axvline(1, color=OUR_COLOR, lw=1.8, zorder=4)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    least = min(row.floor_seconds / row.ours_seconds[1] for row in rows)
    left, right = min(0.5, least / 1.5), 2.5 * max(row.ratio[2] for row in rows)
    steps = (1, 10, 100) if right / left > 300 else (1, 3, 10) if right / left > 30 else (1, 2, 5, 10)
    ticks = sorted({step * 10.0**power for power in range(-4, 6) for step in steps})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(left, right)
    axes.set_xlabel("time / time of vlae_fast (red); grey: floor")


def figure(width: float = 4.4, height: float = 3.4) -> tuple[Figure, Axes]:
    """Narrow enough to be read on a phone."""
    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.add_subplot()


def svg(made: Figure) -> str:
    """The picture as an element of an HTML page."""
    file = io.StringIO()
    made.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def overview(labels: list[str], rows: list[Row], axis: str, along: list[Row], title: str, path: Path) -> None:
    """The README's picture."""
    made = Figure(figsize=(10.5, 3.7), layout="constrained")
    left, right = made.subplots(1, 2, width_ratios=(1.05, 1))
    in_ratios(left, labels, rows)
    in_size(right, axis, along)
    right.set_title(title, fontsize=9)
    right.legend(fontsize=7.5)
    made.savefig(path, dpi=100, metadata={"Software": None})
