"""Processes against threads on one machine: a training step and an evaluation of the preset "paper".

python benchmarks/processes.py --rounds 5: one process of one thread, one of several, several of one thread, in turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vlae_fast import Dataset, TrainConfig, Trainer, VLAEConfig, evaluate
from vlae_fast.distributed import World, joined

BATCH = 64
STEPS = 12
WARM = 3
IMAGES = 64
SAMPLES = 64


def work(world: World) -> dict[str, float]:
    """Images a second of the clock, as the first process sees it, and a second of all processes' CPU time."""
    images = (torch.rand(4 * BATCH, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    data = Dataset.from_tensors(images, valid=images[:IMAGES], test=images[:IMAGES])
    found: dict[str, float] = {}

    def rates(name: str, images: int, action: Callable[[], object]) -> None:
        world.any(False)  # all begin together
        start, cpu_start = time.monotonic(), time.process_time()
        action()
        seconds, cpu_seconds = time.monotonic() - start, torch.tensor(time.process_time() - cpu_start)
        world.add(cpu_seconds)
        found[name], found[f"{name}, of CPU time"] = images / seconds, images / cpu_seconds.item()

    with tempfile.TemporaryDirectory() as out:
        trainer = Trainer(VLAEConfig(), TrainConfig(batch_size=BATCH), data, Path(out) / "run", quiet=True, world=world)
        for first, steps in ((0, WARM), (WARM, STEPS)):
            batches = [trainer.batches.of_step(step) for step in range(first, first + steps)]
            rates("training", BATCH * steps, lambda batches=batches: [trainer._step(batch) for batch in batches])
    for samples in (4, SAMPLES):  # the first call warms up
        rates("evaluation", IMAGES, lambda s=samples: evaluate(trainer.model, data.test, samples=s, world=world))
    return found


def measure(processes: int, threads: int) -> dict[str, float]:
    """The same in processes of their own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, __file__, "--work"],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--work", action="store_true", help="be one of the processes")
    options = parser.parse_args()
    if options.work:
        with joined() as world:
            found = work(world)
            if world.first:
                print(json.dumps(found))
        return
    K = options.processes
    setups = {(1, 1): [], (1, K): [], (K, 1): []}  # processes, threads
    for _ in range(options.rounds):
        for setup, rounds in setups.items():
            rounds.append(measure(*setup))
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores; images a second, median of {options.rounds} rounds")
    print(f"(range), and the median of the ratios to one process of one thread; {SAMPLES} importance samples an image")
    for (processes, threads), rounds in setups.items():
        print(f"\n{processes} process{'es' * (processes > 1)} x {threads} thread{'s' * (threads > 1)}")
        for name in rounds[0]:
            values = [r[name] for r in rounds]
            ratio = statistics.median(r[name] / one[name] for r, one in zip(rounds, setups[1, 1], strict=True))
            spread = f"({min(values):.1f} to {max(values):.1f})"
            print(f"  {name:24} {statistics.median(values):8.1f} {spread:20} {ratio:.2f}x")


if __name__ == "__main__":
    main()
