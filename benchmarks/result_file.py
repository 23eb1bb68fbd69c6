"""Results of a benchmark run: what `make bench` keeps of pytest-benchmark's JSON, and how the report looks at it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.case import OURS, Work

LABELS = {OURS: "vlae_fast"}


@dataclass(frozen=True)
class Row:
    """One contender at one size."""

    op: str
    size: dict[str, int]
    contender: str
    seconds: list[float]
    """Of a call: lower quartile, median, upper quartile."""
    ours_seconds: list[float]
    """Of our calls that took turns with them."""
    ratio: list[float]
    """Of the pairs, theirs / ours: lower quartile, median, upper quartile."""
    pairs: int
    set_aside: int
    work: dict[str, float]
    peak_bytes: int | None
    floor_seconds: float
    """The least that the probes of this run allow."""

    @property
    def median(self) -> float:
        return self.seconds[1]

    @property
    def same_work(self) -> bool:
        """Some contenders do other work on purpose: see ops/model.py."""
        return not self.contender.startswith("scoring once")


class Results:
    """A results file."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.rows = [Row(**row) for row in content["rows"]]

    @classmethod
    def read(cls, path: Path) -> "Results":
        return cls(json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """One row a line, so that a change can be read."""
        head = {key: value for key, value in self.content.items() if key != "rows"}
        rows = ",\n".join("  " + json.dumps(row) for row in self.content["rows"])
        path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n')

    @cached_property
    def ops(self) -> list[str]:
        return list(dict.fromkeys(row.op for row in self.rows))

    def groups(self, op: str) -> dict[str, list[Row]]:
        """Rows of an op by size, ours first."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.op == op:
                found.setdefault(json.dumps(row.size), []).append(row)
        return {
            size: sorted(rows, key=lambda row: (row.contender != OURS, not row.same_work, row.median))
            for size, rows in sorted(found.items(), key=lambda item: list(json.loads(item[0]).values()))
        }

    def series(self, op: str) -> Iterator[tuple[str, dict[str, int], list[Row]]]:
        """(axis, the other sizes, rows) wherever ours was measured at three or more sizes along one axis."""
        rows = [row for row in self.rows if row.op == op]
        for axis in rows[0].size:
            found: dict[str, list[Row]] = {}
            for row in rows:
                others = {name: value for name, value in row.size.items() if name != axis}
                found.setdefault(json.dumps(others), []).append(row)
            for others, along in found.items():
                if sum(row.contender == OURS for row in along) >= 3:
                    yield axis, json.loads(others), sorted(along, key=lambda row: row.size[axis])

    def find(self, op: str, kind: str | None = None, **size: int) -> Row:
        """The fastest contender of a kind (how their names begin), or of those that do the same work as ours."""
        rows = [
            row
            for row in self.rows
            if row.op == op
            and row.size == size
            and (row.contender.startswith(kind) if kind else row.contender != OURS and row.same_work)
        ]
        if not rows:
            raise LookupError(f"no row of {op} at {size}")
        return min(rows, key=lambda row: row.ratio[1])


def from_pytest_benchmark(raw: dict[str, Any]) -> Results:
    """Nothing that names the machine's owner is kept: no host name, no paths."""
    machine, run = raw["machine_info"], raw["machine_info"]["run"]
    cpu = machine["cpu"]
    rows = [dict(benchmark["extra_info"]) for benchmark in raw["benchmarks"]]
    for row in rows:
        row["floor_seconds"] = Work(**row["work"]).floor_seconds(run["probes"])
        for key in ("seconds", "ours_seconds", "ratio"):
            row[key] = [float(f"{value:.4g}") for value in row[key]]
        row["floor_seconds"] = float(f"{row['floor_seconds']:.4g}")
    content = {
        "date": raw["datetime"][:10],
        "set": "make bench" if run.pop("quick") else "make bench-all",
        "commit": raw["commit_info"]["id"] + (" with changes" if raw["commit_info"]["dirty"] else ""),
        "cpu": cpu.get("brand_raw", machine["processor"] or machine["machine"]),
        "cores": cpu.get("count"),
        "cpu_flags": " ".join(sorted(cpu.get("flags", []))),
        "system": f"{machine['system']} {machine['machine']}",
        **run,
        "rows": rows,
    }
    return Results(content)


def machine_name(results: Results) -> str:
    """A file name from the processor's model and its vector instructions."""
    words = re.sub(r"\((R|TM)\)|@.*|\bCPU\b|Processor", "", str(results.content["cpu"]))
    slug = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
    return f"{slug}-{results.content['isa']}-{results.content['cores']}core"
