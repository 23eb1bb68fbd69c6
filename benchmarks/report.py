"""Writes what `make bench` measured: results/<machine>.json, report.md and report.html; `readme` fills in README.md.

python -m benchmarks.report from build/bench.json     # after a run
python -m benchmarks.report readme RESULTS.json       # picture and table of the README, from a committed file
"""

import argparse
import json
import re
import textwrap
from html import escape
from pathlib import Path

from benchmarks import plots
from benchmarks.case import OURS, label
from benchmarks.result_file import LABELS, Results, Row, from_pytest_benchmark, machine_name

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- speed: written by benchmarks/report.py -->", "<!-- /speed -->"

PIXELCNN = {"N": 64, "image": 28, "channels": 12, "layers": 5}
MADE = {"latent": 64, "hidden": 640}
README_LINES = (
    # what it is, op, which contenders (the fastest of them; None: of those that do the same), size
    ("`model.sample(256)`", "model.sample", None, {"N": 256}),
    ("the same against *scoring* 256 images once", "model.sample", "scoring once", {"N": 256}),
    ("a training step, 64 images", "training step", None, {"N": 64}),
    ("`model.log_likelihood`, 256 samples", "model.log_likelihood", None, {"N": 256}),
    ("`pixelcnn_sample`, 64 images", "pixelcnn_sample", None, PIXELCNN),
    ("`pixelcnn_log_prob` and gradients, 64 images", "pixelcnn_log_prob + gradients", None, PIXELCNN),
    ("`made_flow_inverse`, 64 codes", "made_flow_inverse", None, {"N": 64, **MADE}),
    ("`made_flow_forward`, 64 codes", "made_flow_forward", None, {"N": 64, **MADE}),
    ("`made_flow_forward`, one code", "made_flow_forward", None, {"N": 1, **MADE}),
    ("`masked_conv3x3`, 12 channels, 64 images", "masked_conv3x3", None, {"N": 64, "image": 28, "channels": 12}),
)
NETWORKS = """Lines of `model` and the training step time the preset "paper" (twelve untied masked layers in six
residual blocks); `pixelcnn_*` five tied masked layers and four 1x1 blocks; `made_flow_*` four steps of 64 variables and
640 hidden units. *Floor* is the time that the arithmetic or the memory traffic alone would take on that core."""


def digits(value: float) -> str:
    """Three of them."""
    return f"{value:.3g}" if value < 99.95 else f"{value:,.0f}"


def milliseconds(seconds: float) -> str:
    return f"{digits(1e3 * seconds)} ms"


def ratio(row: Row) -> str:
    """Median and quartiles of the pairs."""
    low, median, high = row.ratio
    return f"**{digits(median)}** ({digits(low)} to {digits(high)})"


def about(results: Results) -> str:
    """Where and how it was measured."""
    c = results.content
    versions = ", ".join(f"{name} {version}" for name, version in c["versions"].items())
    bandwidth = ", ".join(
        f"{max(level['read_gbs'], level['copy_gbs']):.0f} GB/s in {level['bytes'] >> 10:,} KiB"
        for level in c["probes"]["bandwidth"]
    )
    aside, pairs = sum(row.set_aside for row in results.rows), sum(row.pairs for row in results.rows)
    commit = c["commit"][:12] + " with changes" * ("changes" in c["commit"])
    return (
        f"One core of {c['cpu']} ({c['isa']}), {c['system']}, one thread, float32; {versions}; `{c['set']}` at commit "
        f"{commit}, {c['date']}. Every contender and ours took turns; of {pairs + aside} pairs {aside} were set aside, "
        f"as something else had the core. Probes of the run: {c['probes']['gflops']:.0f} GFLOP/s of multiply-adds, "
        f"{bandwidth}. Memory allocator, the same for all: "
        f"{', '.join(f'{key}={value}' for key, value in c['allocator'].items())}."
    )


READING = (
    "*Ratio*: how many times as long as ours the contender took, the median of pairs timed in turn and its quartiles; "
    "that of ours against itself is what noise makes. *Floor*: the time that the live multiply-adds or the bytes that "
    "must move take on this core at the least, whichever is longer (ELUs count nothing). *Peak*: memory that a call "
    "needs beyond what the process holds. `scoring once`: a contender that does other work on purpose, the bound of as "
    "many images in plain torch."
)


def cells(row: Row) -> list[str]:
    """A line of a table."""
    return [
        LABELS.get(row.contender, row.contender),
        milliseconds(row.median),
        digits(row.size["N"] / row.median) if "N" in row.size else "",
        ratio(row),
        digits(row.median / row.floor_seconds),
        f"{row.pairs} + {row.set_aside}",
        "" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.1f} MiB",
    ]


HEAD = ["", "time a call", "N a second", "ratio", "times the floor", "pairs + set aside", "peak"]


def markdown(results: Results) -> str:
    """The whole report as tables."""
    lines = ["# Speed", "", about(results), "", READING]
    for op in results.ops:
        lines += ["", f"## {op}"]
        for size, rows in results.groups(op).items():
            lines += ["", f"{label(json.loads(size))}", "", table(HEAD, [cells(row) for row in rows])]
    return "\n".join(lines) + "\n"


def table(head: list[str], lines: list[list[str]]) -> str:
    """In Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1120px; padding: 1rem; color: #222; }
p { overflow-wrap: break-word; } h1, h2 { line-height: 1.2; }
h2 { margin-top: 2.2em; border-top: 1px solid #ddd; padding-top: 1em; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.plots figure { flex: 1 1 320px; max-width: 520px; margin: 0; } figcaption { font-size: .85rem; color: #555; }
svg { width: 100%; height: auto; } .wide { overflow-x: auto; } summary { margin-top: 1em; cursor: pointer; }
table { border-collapse: collapse; font-size: .85rem; white-space: nowrap; }
caption { text-align: left; padding: .8em 0 .2em; }
td, th { padding: .15em .8em .15em 0; text-align: right; border-bottom: 1px solid #eee; }
td:first-child { text-align: left; } tr.ours { color: #c1272d; } code { font-size: .9em; }
"""


def html(results: Results) -> str:
    """The whole report as one page that needs no other file."""
    parts = [f"<h1>Speed of vlae_fast</h1><p>{inline(about(results))}</p><p>{inline(READING)}</p>"]
    for op in results.ops:
        parts.append(f"<h2>{escape(op)}</h2><div class=plots>{''.join(pictures(results, op))}</div>")
        tables = []
        for size, rows in results.groups(op).items():
            head = "".join(f"<th>{escape(title)}</th>" for title in HEAD)
            lines = "".join(
                f"<tr{' class=ours' * (row.contender == OURS)}>"
                + "".join(f"<td>{inline(cell)}</td>" for cell in cells(row))
                + "</tr>"
                for row in rows
            )
            tables.append(
                f"<div class=wide><table><caption>{escape(label(json.loads(size)))}</caption>"
                f"<tr>{head}</tr>{lines}</table></div>"
            )
        parts.append(f"<details><summary>All numbers</summary>{''.join(tables)}</details>")
    viewport = '<meta name=viewport content="width=device-width, initial-scale=1">'
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8>{viewport}<title>Speed of vlae_fast</title>"
        f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    )


def inline(text: str) -> str:
    """The little Markdown that stands in sentences and cells."""
    text = escape(text)
    for mark, tag in ((r"\*\*", "b"), (r"\*", "i"), ("`", "code")):
        text = re.sub(f"{mark}(.+?){mark}", rf"<{tag}>\1</{tag}>", text)
    return text


def pictures(results: Results, op: str) -> list[str]:
    """Time along every axis that was measured, and the ratios at the (middle) size with the most contenders."""
    found = []
    for axis, others, rows in results.series(op):
        figure, axes = plots.figure()
        plots.in_size(axes, axis, rows)
        axes.legend(fontsize=7)
        found.append((figure, f"Time against {plots.AXIS_LABELS.get(axis, axis)}{'; ' * bool(others)}{label(others)}"))
    most = max(len(rows) for rows in results.groups(op).values())
    candidates = [(size, rows) for size, rows in results.groups(op).items() if len(rows) == most]
    size, rows = candidates[len(candidates) // 2]
    rows = [row for row in rows if row.contender != OURS]
    if rows:
        figure, axes = plots.figure(height=1.3 + 0.38 * len(rows))
        plots.in_ratios(axes, [row.contender for row in rows], rows)
        found.append((figure, f"Ratios and quartiles at {label(json.loads(size))}"))
    return [f"<figure>{plots.svg(figure)}<figcaption>{escape(text)}</figcaption></figure>" for figure, text in found]


# --- README ---------------------------------------------------------------------------------------------------------


def readme_block(results: Results, picture: str) -> str:
    """What stands between the two marks."""
    lines = []
    for what, op, kind, size in README_LINES:
        row = results.find(op, kind, **size)
        ours, share = row.ours_seconds[1], row.floor_seconds / row.ours_seconds[1]
        other = f"{milliseconds(row.median)}, {row.contender}"
        lines.append([what, f"**{milliseconds(ours)}**", other, ratio(row), f"{share:.0%}"])
    head = ["", "vlae_fast", "fastest other way measured", "ratio, quartiles", "floor / ours"]
    words = textwrap.fill(about(results), 120, break_long_words=False, break_on_hyphens=False)
    return f"![Ratios, and time against batch]({picture})\n\n{table(head, lines)}\n\n{NETWORKS}\n\n{words}\n"


def with_block(readme: str, block: str) -> str:
    """README.md with the text between the marks replaced."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{block}{END}{rest.split(END)[1]}"


def write_readme(source: Path) -> None:
    results, picture = Results.read(source), source.with_suffix(".png")
    rows = [results.find(op, kind, **size) for _, op, kind, size in README_LINES]
    labels = [what.replace("`", "").replace("*", "") for what, *_ in README_LINES]
    axis, _, along = next(results.series("pixelcnn_sample"))
    plots.overview(labels, rows, axis, along, "pixelcnn_sample: 28 x 28 pixels, 12 channels", picture)
    path = ROOT / "README.md"
    path.write_text(with_block(path.read_text(), readme_block(results, str(picture.relative_to(ROOT)))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("from", "readme"))
    parser.add_argument("file", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "readme":
        write_readme(arguments.file.resolve())
        return
    results = from_pytest_benchmark(json.loads(arguments.file.read_text()))
    path = FOLDER / f"{machine_name(results)}.json"
    results.write(path)
    (FOLDER / "report.md").write_text(markdown(results))
    (FOLDER / "report.html").write_text(html(results))
    print(f"{path.relative_to(ROOT)}, and the report as {FOLDER.relative_to(ROOT)}/report.md and report.html")


if __name__ == "__main__":
    main()
