"""Everything about the CUDA bodies that only a GPU can tell: `python benchmarks/gpu_report.py [--dry-run] [--out DIR]`.

Builds the package from this tree, checks every op against the float64 reference, runs compute-sanitizer where it is
found, times every op and the whole model against plain torch, with the times that gpu_predicted.md predicts beside
them, and writes gpu_report.json and gpu_report.md. Needs no network and no installed vlae_fast. Each part runs in a
process of its own, so that one that crashes or hangs stops no other; what would not fit into the time is skipped and
says so. Exit status 1 if anything failed.

`--dry-run` needs no GPU: the same walk on the CPU, tiny; Triton launches are compiled instead of run.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))
from benchmarks.ops import STEMS  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.case import Case

BUILD = ROOT / "build" / "gpu_report"
SECONDS = 450
"""For the whole report, of the 8 minutes that it may take."""
ROUNDS_SECONDS = 1.2
"""For all contenders of a case at a size."""
H200 = {"gflops": 67e3, "bandwidth": [{"bytes": 0, "read_gbs": 4300, "copy_gbs": 4300}]}
PREDICTED = re.compile(r"^\| `(?P<case>[^`]+)` \| (?P<microseconds>[\d,]+) \|", re.MULTILINE)
"""A line of gpu_predicted.md."""
CHECK = re.compile(r"\S*::(?P<name>.+) (?P<status>PASSED|FAILED|ERROR|SKIPPED)\b")
FAILURE = re.compile(r"(?:FAILED|ERROR) \S*::(?P<name>.+?) - (?P<detail>.*)")
"""What pytest says of a test, and why it failed."""

Record = dict[str, Any]


class Report:
    """Runs the parts and collects what they say."""

    def __init__(self, dry: bool) -> None:
        self.device, self.deadline = "cpu" if dry else "cuda", time.monotonic() + SECONDS
        self.records: list[Record] = []

    def part(self, section: str, name: str, command: list[str], seconds: float, cwd: Path = BUILD) -> None:
        """Runs a command; its lines of JSON, and whether it ended well, join the records of the section."""
        left = self.deadline - time.monotonic()
        if left < min(seconds, 20):
            self.add(section, {"name": name, "status": "skipped", "detail": f"{left:.0f} s were left"})
            return
        environment = {**os.environ, "PYTHONPATH": str(BUILD), "PYTHONUNBUFFERED": "1", "COLUMNS": "1000"}
        BUILD.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, how = process.communicate(timeout=min(left, seconds))[0], f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
            output, how = process.communicate()[0], f"stopped after {time.monotonic() - start:.0f} s"
        for found in records_in(output):
            self.add(section, found)
        record: Record = {"name": name, "status": "ok", "seconds": round(time.monotonic() - start, 1)}
        if process.returncode:
            tail = "\n".join(line for line in output.splitlines() if not line.startswith('{"name"'))[-1500:]
            record |= {"status": "failed", "detail": f"{how}\n{tail}"}
        self.add(section, record)

    def add(self, section: str, record: Record) -> None:
        self.records.append({"section": section, **record})
        if record["status"] != "ok":
            print(f"{record['status']}: {record['name']}: {record.get('detail', '')}", flush=True)

    def run(self) -> None:
        """All parts, what matters most first."""
        python = sys.executable
        build = [python, "setup.py", "-q", "build", "--build-lib", str(BUILD)]
        self.part("build", "setup.py build", build, 240, cwd=ROOT)
        checks = [python, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider"]
        checks += [str(ROOT / "tests" / name) for name in ("test_ops.py", "test_devices.py")] + ["-k"]
        sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
        with ThreadPoolExecutor(5) as pool:
            for stem in STEMS[1:]:  # all but the model
                pool.submit(self.part, "checks", f"checks of {stem}", [*checks, f"{self.device} and {stem}"], 120)
            for tool, tests in (("memcheck", "reference"), ("racecheck", "reference and made")):
                name = f"compute-sanitizer {tool}: {tests}"
                if sanitizer and self.device == "cuda":
                    command = [
                        sanitizer,
                        "--tool",
                        tool,
                        "--error-exitcode",
                        "1",
                        *checks,
                        f"cuda and small and {tests}",
                    ]
                    pool.submit(self.part, "sanitizer", name, command, 120)
                else:
                    reason = "no compute-sanitizer" if self.device == "cuda" else "no GPU"
                    self.add("sanitizer", {"name": name, "status": "skipped", "detail": reason})
        for stem in STEMS:
            command = [python, str(Path(__file__).resolve()), "--times", stem, *["--dry-run"] * (self.device == "cpu")]
            self.part("timings", f"timings of {stem}", command, 120)


def records_in(output: str) -> Iterator[Record]:
    """What a part says: lines of JSON, or those of pytest."""
    reasons = {match["name"]: match["detail"] for match in FAILURE.finditer(output)}
    for line in output.splitlines():
        if line.startswith('{"name"'):
            yield json.loads(line)
        elif match := CHECK.match(line):
            status = {"PASSED": "ok", "SKIPPED": "skipped"}.get(match["status"], "failed")
            yield {"name": match["name"], "status": status, "detail": reasons.get(match["name"], "")}


# --- the times, in processes of their own ---------------------------------------------------------------------------


def attempt(name: str, function: Callable[[], Record | None]) -> None:
    """Runs a measurement and writes what came out as a line of JSON; goes on after any error."""
    try:
        record = {"status": "ok", **(function() or {})}
    except Exception as error:
        record = {"status": "failed", "detail": f"{type(error).__name__}: {error}"[:1500]}
    print(json.dumps({"name": name, **record}), flush=True)


def times(stem: str, device: str) -> None:
    """Of all cases of a stem; on the CPU (a dry run) everything runs once, tiny, without torch.compile and graphs."""
    import torch

    from benchmarks.registry import CASES

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for case in CASES[stem]:
        for size in case.gpu.sizes if device == "cuda" else case.gpu.sizes[:1]:
            tiny = {axis: 2 if axis == "N" else value for axis, value in size.items()}
            attempt(f"{case.op}: timings", partial(times_of, case, size if device == "cuda" else tiny, device))


def times_of(case: "Case", size: dict[str, int], device: str) -> None:
    """Ours and the contenders in turns, round after round; a time is the median of all rounds."""
    import torch

    from benchmarks.case import OURS, label
    from benchmarks.timing import gpu_rounds, graphed, time_block

    ready: dict[str, Callable[[], Any]] = {}
    with torch.device(device):
        inputs = case.draw(**size)

    def prepare(name: str, contender: str, way: Callable[..., Any] = lambda call: call) -> None:
        with torch.device(device):
            call = case.contenders[contender](inputs)
        for _ in range(3 if device == "cuda" else 1):
            call()
        ready[name] = way(call)

    where = f"{case.op} {label(size)}"
    for contender in (OURS, *case.gpu.contenders):
        name = "ours" if contender == OURS else contender
        if not case.runs(contender, size) or (device == "cpu" and "torch.compile" in contender):
            continue
        attempt(f"{where}: {name} runs", partial(prepare, name, contender))
        if device == "cuda" and contender not in case.gpu.ungraphed:
            attempt(f"{where}: {name}, graph runs", partial(prepare, f"{name}, graph", contender, graphed))
    if device == "cuda":
        found = gpu_rounds(ready, ROUNDS_SECONDS)
    else:
        found = {name: [1e3 * time_block(call, 1).wall] for name, call in ready.items()}
    floor = case.work(**size).floor_seconds(H200)
    for name, milliseconds in found.items():
        ms = median(milliseconds)
        record = {"case": where, "contender": name, "ms": ms, "rounds": len(milliseconds)}
        record |= {"per_second": 1e3 * size.get("N", 1) / ms, "of_floor": 1e3 * floor / ms}
        attempt(f"{where}: {name}", lambda record=record: record)


def predicted() -> dict[str, float]:
    """Case -> milliseconds that are predicted for ours."""
    text = (ROOT / "benchmarks/gpu_predicted.md").read_text()
    return {line["case"]: float(line["microseconds"].replace(",", "")) / 1e3 for line in PREDICTED.finditer(text)}


# --- the report -----------------------------------------------------------------------------------------------------


def first_line(*command: str) -> str:
    """What a command says first; nothing where it cannot be run."""
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30).stdout.splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return ""


def environment() -> dict[str, str]:
    """Device, driver, versions, commit."""
    code = "import torch, triton; print(torch.__version__, torch.version.cuda, triton.__version__)"
    versions = (first_line(sys.executable, "-c", code).split() + ["?"] * 3)[:3]
    return {
        "device": first_line("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or "none",
        "commit": first_line("git", "describe", "--always", "--dirty") or "unknown",
        "python": platform.python_version(),
        "torch": versions[0],
        "torch's CUDA": versions[1],
        "triton": versions[2],
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def markdown(about: dict[str, str], records: list[Record]) -> str:
    """The tables for people."""

    def row(*cells: object) -> str:
        return "| " + " | ".join(" ".join(str(cell).replace("|", "/").split()) for cell in cells) + " |"

    counts = {status: sum(r["status"] == status for r in records) for status in ("ok", "failed", "skipped")}
    lines = ["# GPU report", "", row("", ""), row("---", "---"), *(row(*item) for item in about.items())]
    lines += ["", ", ".join(f"{n} {status}" for status, n in counts.items()), ""]
    times = [r for r in records if "ms" in r]
    if times:
        lines += [
            "## Times",
            "",
            row("case", "contender", "ms", "predicted ms", "samples/s", "ours is faster by", "counted floor / time"),
        ]
        lines += [row(*["---"] * 7)]
        expected = predicted()
        ours = {r["case"]: r["ms"] for r in reversed(times) if r["contender"] == "ours"}
        for r in times:
            ratio = f"{r['ms'] / ours[r['case']]:.2f}x" if r["case"] in ours else ""
            floor = f"{r['of_floor']:.0%}" if r["of_floor"] else ""
            ms = expected.get(r["case"]) if r["contender"].startswith("ours") else None
            told = "" if ms is None else f"{ms:.4g}"
            lines.append(row(r["case"], r["contender"], f"{r['ms']:.4g}", told, f"{r['per_second']:.4g}", ratio, floor))
    lines += ["", "## Checks", "", row("part", "check", "status", "detail"), row(*["---"] * 4)]
    lines += [row(r["section"], r["name"], r["status"], r.get("detail", "")[:300]) for r in records if "ms" not in r]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="walk through everything on the CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "build", metavar="DIR", help="for the two files")
    parser.add_argument("--times", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.times:
        times(options.times, "cpu" if options.dry_run else "cuda")
        return 0
    report = Report(options.dry_run)
    report.run()
    about = environment()
    options.out.mkdir(parents=True, exist_ok=True)
    result = json.dumps({"about": about, "records": report.records}, indent=1)
    (options.out / "gpu_report.json").write_text(result + "\n")
    (options.out / "gpu_report.md").write_text(markdown(about, report.records))
    failed = sum(record["status"] == "failed" for record in report.records)
    print(f"{options.out / 'gpu_report.md'}: {len(report.records)} records, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
