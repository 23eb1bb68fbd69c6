"""Everything about the CUDA bodies that only a GPU can tell: `python benchmarks/gpu_report.py [--dry-run] [--out DIR]`.

Builds the package from this tree, checks every op against the float64 reference, runs compute-sanitizer where it is
found, times every op and the whole model against plain torch, and writes gpu_report.json and gpu_report.md. Needs no
network and no installed vlae_fast. Each part runs in a process of its own, so that one that crashes or hangs stops no
other; what would not fit into the time is skipped and says so. Exit status 1 if anything failed.

`--dry-run` needs no GPU: the same walk on the CPU, tiny; Triton launches are compiled instead of run.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "gpu_report"
OPS = (
    "pixelcnn_sample", "made_flow_inverse", "pixelcnn_logits", "made_flow_forward", "masked_conv3x3",
    "pixelcnn_log_prob", "weight_norm",
)  # fmt: skip
SECONDS = 450
"""For the whole report, of the 8 minutes that it may take."""

Record = dict[str, Any]


class Report:
    """Runs the parts and collects what they say."""

    def __init__(self, dry: bool) -> None:
        self.device, self.deadline = "cpu" if dry else "cuda", time.monotonic() + SECONDS
        self.records: list[Record] = []

    def part(self, section: str, name: str, command: list[str], seconds: float) -> None:
        """Runs a command; its lines of JSON, and whether it ended well, join the records of the section."""
        left = self.deadline - time.monotonic()
        if left < min(seconds, 20):
            self.add(section, {"name": name, "status": "skipped", "detail": f"{left:.0f} s were left"})
            return
        paths = os.pathsep.join([str(BUILD), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
        environment.pop("TRITON_INTERPRET", None)
        start = time.monotonic()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, how = process.communicate(timeout=min(left, seconds))[0], f"exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # and what it started
            output, how = process.communicate()[0], f"stopped after {time.monotonic() - start:.0f} s"
        lines = output.splitlines()
        for line in lines:
            if line.startswith('{"name"'):
                self.add(section, json.loads(line))
        record: Record = {"name": name, "status": "ok", "seconds": round(time.monotonic() - start, 1)}
        if process.returncode:
            tail = "\n".join(line for line in lines if not line.startswith('{"name"'))[-1500:]
            record |= {"status": "failed", "detail": f"{how}\n{tail}"}
        self.add(section, record)

    def add(self, section: str, record: Record) -> None:
        self.records.append({"section": section, **record})
        if record["status"] != "ok":
            print(f"{record['status']}: {record['name']}: {record.get('detail', '')}", flush=True)

    def run(self) -> None:
        """All parts, what matters most first."""
        python, here = sys.executable, Path(__file__).parent
        build = [python, "setup.py", "-q", "build", "--build-lib", str(BUILD)]
        self.part("build", "setup.py build", build, 240)
        checks, timings = ([python, str(here / f"gpu_{name}.py")] for name in ("checks", "timings"))
        with ThreadPoolExecutor(5) as pool:
            for op in ["all"] if self.device == "cpu" else OPS:
                pool.submit(self.part, "checks", f"checks of {op}", [*checks, op, self.device], 120)
            for tool, op in (
                ("memcheck", "all"),
                ("racecheck", "made_flow_inverse"),
                ("racecheck", "made_flow_forward"),
            ):
                name = f"compute-sanitizer {tool} {op}"
                sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin")
                if sanitizer and self.device == "cuda":
                    command = [sanitizer, "--tool", tool, "--error-exitcode", "1", *checks, op, self.device, "--small"]
                    pool.submit(self.part, "sanitizer", name, command, 120)
                else:
                    reason = "no compute-sanitizer" if self.device == "cuda" else "no GPU"
                    self.add("sanitizer", {"name": name, "status": "skipped", "detail": reason})
        for op in ["all"] if self.device == "cpu" else ["model", *OPS]:
            self.part("timings", f"timings of {op}", [*timings, op, self.device], 80)


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
            row("case", "contender", "ms", "samples/s", "ours is faster by", "counted floor / time"),
        ]
        lines += [row(*["---"] * 6)]
        ours = {r["case"]: r["ms"] for r in reversed(times) if r["contender"] == "ours"}
        for r in times:
            ratio = f"{r['ms'] / ours[r['case']]:.2f}x" if r["case"] in ours else ""
            floor = f"{r['of_floor']:.0%}" if r["of_floor"] else ""
            lines.append(row(r["case"], r["contender"], f"{r['ms']:.4g}", f"{r['per_second']:.4g}", ratio, floor))
    lines += ["", "## Checks", "", row("part", "check", "status", "detail"), row(*["---"] * 4)]
    lines += [row(r["section"], r["name"], r["status"], r.get("detail", "")[:300]) for r in records if "ms" not in r]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="walk through everything on the CPU")
    parser.add_argument("--out", type=Path, default=ROOT / "build", metavar="DIR", help="for the two files")
    options = parser.parse_args()
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
