"""`make bench`: every contender of every case, timed in turn with ours on one thread of this machine.

A plug-in of pytest and its only test; pytest-benchmark keeps the books.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from benchmarks import timing
from benchmarks.case import OURS, Case, Size, label
from benchmarks.registry import every
from vlae_fast import native

ALLOCATOR = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")


class Replay:
    """A clock for pytest-benchmark, moved on by hand: it hands over the times that timing.py has measured."""

    __name__ = "timing.time_pairs"

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


REPLAY = Replay()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seconds", type=float, default=0.5, help="seconds to spend on timing one contender")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch._dynamo.reset()
    yield
    torch.set_num_threads(before)


def chosen() -> Iterator[Any]:
    """What runs; part of `make bench` is what is marked quick."""
    for case in every():
        for size in case.sizes():
            for contender in case.contenders:
                if case.runs(contender, size):
                    marks = [pytest.mark.quick] * case.quick(contender, size)
                    yield pytest.param(case, size, contender, id=f"{case.op} {label(size)} {contender}", marks=marks)


@pytest.mark.benchmark(timer=REPLAY)
@pytest.mark.parametrize(("case", "size", "contender"), list(chosen()))
def test_speed(benchmark: Any, request: pytest.FixtureRequest, case: Case, size: Size, contender: str) -> None:
    """The contender "native" is ours against itself: how far its ratio strays from 1 is what the others' may."""
    benchmark.group = f"{case.op} {label(size)}"
    inputs = case.draw(**size)
    ours, theirs = case.contenders[OURS](inputs), case.contenders[contender](inputs)
    ours()
    theirs()  # compiles
    if benchmark.disabled:
        benchmark(theirs)
        case.check(inputs, theirs())
        return
    try:
        pairs = timing.time_pairs(ours, theirs, request.config.getoption("--seconds"))
    except timing.NotQuietError as error:
        pytest.skip(str(error))
    benchmark.extra_info.update(
        op=case.op,
        size=size,
        contender=contender,
        seconds=timing.quartiles(pairs.theirs),
        ours_seconds=timing.quartiles(pairs.ours),
        ratio=timing.quartiles(pairs.ratios()),
        pairs=len(pairs.ours),
        set_aside=pairs.set_aside,
        work=case.work(**size)._asdict(),
        peak_bytes=timing.peak_bytes(theirs) if case.memory else None,
    )
    kept = iter(pairs.theirs)

    def replay() -> None:
        REPLAY.now += next(kept)

    benchmark.pedantic(replay, rounds=len(pairs.theirs))
    case.check(inputs, theirs())


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["run"] = {
        "quick": config.option.markexpr == "quick",
        "probes": probe(),
        "isa": native.isa(),
        "threads": 1,
        "allocator": {name: os.environ.get(name, "default") for name in ALLOCATOR},
        "versions": {"torch": torch.__version__, "numpy": numpy.__version__, "python": sys.version.split()[0]},
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def probe() -> dict[str, Any]:
    """Ceilings of one core, measured now: see probes.c."""
    source = Path(__file__).with_name("probes.c")
    program = source.parents[1] / "build" / "probes"
    program.parent.mkdir(exist_ok=True)
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O3", "-march=native", str(source), "-o", str(program)], check=True)
    ceilings: dict[str, Any] = json.loads(subprocess.run([program], check=True, capture_output=True).stdout)
    return ceilings
