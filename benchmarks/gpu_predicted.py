"""Times of the GPU kernels as PREDICTED from the instructions that a block takes: python -m benchmarks.gpu_predicted

The compiled PTX for sm_90 runs on the CPU (tests/ptx), where each instruction takes of a multiprocessor's pipes what
TABLE says, and its result the latency that stands there. No chip is asked, and none was measured: PTX is not yet what a
chip runs. ptxas drops moves (FREE), and adds a number to an address in the access itself (`offsets`); its other changes
are not known here. Caches are assumed to hold what a block uses again. Writes benchmarks/gpu_predicted.md.
"""

import functools
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

os.environ["VLAE_FAST_PTX"] = "90"  # tests/conftest.py: no interpreter
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np
import torch
from numpy.typing import NDArray
from ptx import cuda, executor
from ptx.program import Program

from benchmarks import registry
from benchmarks.case import Size, label
from benchmarks.gpu_report import H200
from benchmarks.launches import bodies
from benchmarks.ops import made, pixelcnn
from vlae_fast.kernels import pixelcnn_sample
from vlae_fast.ops.made import gpu as made_gpu

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = 90
MULTIPROCESSORS, GIGAHERTZ = 132, 1.755
"""Of an H100 SXM and an H200."""
RESIDENT_THREADS, REGISTERS = 2048, 65536
"""Of a multiprocessor."""
WHY = """
What stands between prediction and floor, as counted: the multiply-adds alone take 58% of the time in the forward, 53%
where it keeps what the backward needs and where that walks back, 60% in the sampler at a batch of 4,096. Of 1,024 lanes
784 carry a pixel, in the sampler of 968. With each of their instructions go 0.4 to 0.5 of the ALU, 0.3 in the sampler;
what binds all of them are the issue of instructions, and L1 where weights are read. The sums of the weights' gradients
take a quarter of the backward; 60% of that are three TF32 products for one of float32. The backward runs the forward
once more. At one image or code the floor says nothing: one multiprocessor of 132 is busy, and the *chain* is the floor;
so it is for 64 codes of a flow. A batch of 4,096 leaves the sampler one warp a scheduler, whose *chain* takes a little
longer than the pipes.
"""
BARRIER_CYCLES = 30.0
LIMITS = (*executor.PIPES, "issue")
Times = NDArray[np.float64]
TABLE = {  # cycles of a multiprocessor for a warp, latency in cycles
    "fma": (0.25, 4.0),  # 128 lanes a cycle
    "alu": (0.5, 5.0),  # 64 lanes a cycle
    "mufu": (2.0, 23.0),  # 16 lanes a cycle
    "shared": (1.0, 29.0),  # 128 bytes a cycle
    "global": (1.0, 38.0),  # the same, as long as L1 holds it
    "tensor": (2.0, 33.0),
    "shuffle": (1.0, 24.0),
}
FREE = ("mov.", "cvta.", "cvt.u32.u64", "cvt.u64.u32", "cvt.s64.s32", "ld.parameter", "nop")
"""What ptxas turns into nothing."""
SLOW = {"div.s32": 12, "rem.s32": 14, "div.u32": 10, "rem.u32": 12, "div.s64": 40, "rem.s64": 44, "mul.lo.s64": 3}
"""Instructions of the ALU that these become; other 64-bit ones take two."""


@functools.cache
def _cost(text: str, pipe: str) -> tuple[int, float, float]:
    """Pipe, cycles and latency of an instruction."""
    words = text.split()
    name = words[1] if words[0][0] == "@" else words[0]
    if name.startswith(FREE) or pipe not in TABLE:
        return executor.PIPES.index("other"), 0.0, 0.0
    cycles, latency = TABLE[pipe]
    if pipe == "global":  # the executor counts what the addresses take
        return executor.PIPES.index(pipe), cycles, latency
    factor = SLOW.get(
        name, 2 if pipe == "alu" and name.endswith("64") else 4 if ".v4" in name else 2 if ".v2" in name else 1
    )
    return executor.PIPES.index(pipe), factor * cycles, latency + (latency / 2 * (factor - 1) if pipe == "alu" else 0)


def offsets(texts: list[str]) -> set[int]:
    """Places of additions of a number whose sum serves as an address alone: loads and stores add it by themselves."""
    found = {}  # register -> place
    for place, text in enumerate(texts):
        match = re.fullmatch(r"add\.s64\s+(%\w+), %\w+, (-?\d+)", text)
        if match and abs(int(match[2])) < 1 << 23:
            found[match[1]] = None if match[1] in found else place
    for text in texts:
        for register in re.findall(r"%\w+", re.sub(r"\[[^\]]*\]", "", text)):
            if register in found and not re.match(rf"add\.s64\s+{register},", text):
                found[register] = None
    return {place for place in found.values() if place is not None}


def costs(program: Program) -> tuple[NDArray[Any], float]:
    """For executor.run."""
    free = offsets(program.texts)
    rows = [
        _cost("nop" if place in free else text, pipe)
        for place, (text, pipe) in enumerate(zip(program.texts, program.pipes(), strict=True))
    ]
    return np.array(rows, executor.COST), BARRIER_CYCLES


class Prediction(NamedTuple):
    """Of one call."""

    size: Size
    """As the case has it."""
    microseconds: Times
    """In all; by dependent instructions alone, with barriers; by the busiest pipe alone; then by each of LIMITS."""

    @property
    def limit(self) -> str:
        """What the time goes to."""
        _, chain, pipes, *each = self.microseconds.tolist()
        return "latency" if chain > pipes else LIMITS[int(np.argmax(each))]


def predict(launches: list[executor.Launched], blocks: float, resident: int, repeat: float = 1.0) -> Times:
    """Of `blocks` blocks like those that ran, `resident` at a time on a multiprocessor; each launch `repeat` times."""
    total = np.zeros(3 + len(LIMITS))
    for launched in launches:
        chain, busy, both = launched.cycles[:3]
        on_one = -(-blocks // MULTIPROCESSORS)
        together = min(resident, on_one)
        rounds = on_one / together * repeat
        pipes = together * busy
        total += rounds * np.array([max(both, pipes), chain, pipes, *(together * launched.cycles[3:])])
    return total / GIGAHERTZ / 1e3


def resident(run: executor.Launched) -> int:
    """Programs that a multiprocessor holds, each with the registers on record for its kernel."""
    recorded = json.loads((ROOT / "tests/registers.json").read_text())["kernels"]
    of = {
        "pixelcnn_forward_kernel": "pixelcnn log_prob",
        "pixelcnn_backward_kernel": "pixelcnn log_prob backward",
        "pixelcnn_backward_weights_kernel": "pixelcnn backward weights",
        "pixelcnn_sample_kernel": "pixelcnn_sample from 1",
    }
    registers = recorded[f"{of[run.kernel]} sm_{ARCHITECTURE}"]["registers"]
    return min(RESIDENT_THREADS // run.threads, REGISTERS // (registers * run.threads))


def launched(session: executor.Session, op: str, **size: int) -> list[executor.Launched]:
    """What the GPU bodies of a case launch."""
    session.launches.clear()
    for body in bodies(registry.named(op).ours(**size)).values():
        body()
    return list(session.launches)


def pixelcnn_rows(session: executor.Session) -> Iterator[tuple[str, Prediction]]:
    """Ops and predictions."""
    for op in ("pixelcnn_log_prob", "pixelcnn_log_prob + gradients"):
        one = launched(session, op, N=1, **pixelcnn.PAPER)
        for N in (1, 1024):  # each program takes one image after another
            size, images = {"N": N, **pixelcnn.PAPER}, min(N, MULTIPROCESSORS)
            parts = [predict([run], images * run.grid[1], resident(run), -(-N // MULTIPROCESSORS)) for run in one]
            yield op, Prediction(size, np.sum(parts, 0))
    for N in (1, 4096):
        tile = [t for t in pixelcnn_sample.TILES if t.least_batch <= N][-1]
        with mock.patch.object(pixelcnn_sample, "TILES", (tile._replace(least_batch=1),)):
            ran = launched(session, "pixelcnn_sample", N=tile.images, **pixelcnn.PAPER)
        size = {"N": N, **pixelcnn.PAPER}
        yield "pixelcnn_sample", Prediction(size, predict(ran, -(-N // tile.images), resident(ran[0])))


def made_rows(session: executor.Session) -> Iterator[tuple[str, Prediction]]:
    for N in (1, 64):
        size = made.BASE | {"N": N}
        for op in ("made_flow_forward", "made_flow_inverse"):
            parts = [predict([one], one.grid[0], 1) for one in launched(session, op, **size)]
            yield op, Prediction(size, np.sum(parts, 0))


def main() -> None:
    """Writes the table."""
    torch.manual_seed(0)
    with executor.installed(ARCHITECTURE) as session:
        session.costs, session.races = costs, False
        found = list(pixelcnn_rows(session))
    if cuda.available():
        with cuda.module(ARCHITECTURE) as (module, session), mock.patch.object(made_gpu, "_cuda", return_value=module):
            session.costs, session.races = costs, False
            found += made_rows(session)
    lines = [
        "# GPU times, PREDICTED",
        "",
        "**Nothing here was measured on a GPU.** `python -m benchmarks.gpu_predicted` writes this table: compiled PTX",
        f"for sm_90 runs on the CPU, and its instructions are counted against {MULTIPROCESSORS} multiprocessors at",
        f"{GIGAHERTZ} GHz (H100 SXM, H200). The model, and what it leaves out, stands at the top of that file. Preset",
        '"paper": twelve untied masked layers of 12 channels, 28x28 pixels; a flow of four steps of 64 variables and',
        "640 hidden units.",
        "",
        "`python benchmarks/gpu_report.py` prints these times beside those that it measures. *Chain*: what",
        "instructions that wait for one another take by themselves; *pipes*: what the busiest pipe takes by itself;",
        "*limit*: which that is, or the latency of the chain; *floor*: what arithmetic or memory traffic alone would",
        "take.",
        "",
        "| case | predicted, us | a sample, us | chain, us | pipes, us | limit | floor, us | predicted / floor |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for op, prediction in found:
        size, (all_us, chain, pipes, *_) = prediction.size, prediction.microseconds.tolist()
        floor = 1e6 * registry.named(op).work(**size).floor_seconds(H200)
        lines.append(
            f"| `{op} {label(size)}` | {all_us:,.0f} | {all_us / size['N']:,.2f} | {chain:,.0f} | {pipes:,.0f} "
            f"| {prediction.limit} | {floor:,.{0 if floor > 10 else 2}f} | {all_us / floor:,.0f} |"
        )
        print(lines[-1], flush=True)
    (ROOT / "benchmarks/gpu_predicted.md").write_text("\n".join(lines) + "\n" + WHY)


if __name__ == "__main__":
    main()
