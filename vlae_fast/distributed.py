"""Several processes that torchrun started for one job: who does what, and what they tell each other.

torch.distributed carries it, gloo between CPUs and nccl between GPUs. What a `World` is asked to exchange, all
processes must ask for, in the same order.
"""

import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

untyped: Any = distributed
"""Some of its names are not exported in so many words."""

__all__ = ["ALONE", "LostError", "World", "joined", "launched"]


class LostError(RuntimeError):
    """Another process of the job has gone, or cannot be reached."""


@dataclass(frozen=True)
class World:
    """The processes of a job, seen from one of them. Exchanging raises LostError where another one has gone."""

    rank: int = 0
    """Number of this process."""
    size: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """Is this the one that writes and speaks?"""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """What this process takes of n things: a stretch, in the order of the ranks; one more here or there."""
        return slice(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def any(self, *flags: bool, device: torch.device | str = "cpu") -> list[bool]:
        """For each flag: is it true in some process? nccl asks all GPUs faster than gloo asks many CPUs."""
        found = torch.tensor(flags, device=device)
        self.add(found)
        return found.tolist()

    def total(self, part: Tensor) -> Tensor:
        """The sum of all processes' tensors, the same bits in each; the gradient is that of this process's part."""
        total: Tensor = part if self.size == 1 else _Total.apply(part, self)
        return total

    def add(self, *tensors: Tensor) -> None:
        """Puts the sum of all processes' tensors (of bools: any) in their place, the same bits in each.

        In one exchange: they have one dtype and device.
        """
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1) for t in tensors])
        with self._exchange():
            if flat.dtype == torch.bool:
                distributed.all_reduce(flat.view(torch.uint8), distributed.ReduceOp.MAX)
            else:
                distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.detach().copy_(part.view_as(tensor))

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Puts the first process's tensors in their place."""
        if self.size > 1:
            with self._exchange():
                for tensor in tensors:
                    distributed.broadcast(tensor.detach(), 0)

    def text(self, text: str) -> str:
        """The text of the first process."""
        content = torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")
        length = torch.tensor(len(content), device="cpu")
        self.spread([length])
        content = content if self.first else content.new_empty(int(length))
        self.spread([content])
        return bytes(content.tolist()).decode()

    def check_same(self, name: str, text: str) -> None:
        """Raises ValueError, in all processes, where one of them has another text."""
        if self.any(self.text(text) != text)[0]:
            raise ValueError(f"{name}: the same in all {self.size} processes wanted, they differ")

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            reason = re.sub(r"\[/\S*\] |\. This is.*", "", reason)[:200]  # less gloo's source files and advice
            raise LostError(f"process {self.rank} of {self.size} has lost another one ({reason})") from None


ALONE = World()
"""One process."""


class _Total(torch.autograd.Function):
    """Every process goes on with the same number; their gradients are added up later."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, world: World) -> Tensor:
        total = part.clone()
        world.add(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def launched() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_available() and distributed.is_torchelastic_launched()


@contextmanager
def joined() -> Iterator[World]:
    """The job that torchrun started this process for, as long as the block lasts; outside of one: a single process.

    Where there are GPUs, the process's number on its machine says which one `cuda` is. Where torch.distributed has been
    initialised already, it is left as it is.
    """
    if not launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    own = not distributed.is_initialized()
    world = World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % gpus)
    if own:
        with world._exchange():
            store = _fresh(next(untyped.rendezvous("env://"))[0], world)
            backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
            distributed.init_process_group(backend, store=store, rank=world.rank, world_size=world.size)
    yield world
    if own:
        distributed.destroy_process_group()  # not after an error: it might wait for one that has gone


def _fresh(store: Any, world: World) -> Any:
    """A part of the store that holds nothing yet, the same for all processes that now begin.

    Where torchrun starts a job again, its store still has the addresses of those that were killed (pytorch#135712), and
    its count of restarts may differ between machines. So the first process makes up a name, which is good until it says
    `go`: that it does once all others have answered to it.
    """
    name = uuid.uuid4().hex
    if world.first:
        store.set("first", name)
        store.wait([f"{name}/{rank}" for rank in range(1, world.size)])
        store.set(f"{name}/go", "")
        return untyped.PrefixStore(name, store)
    answered = ""
    while True:
        name = store.get("first").decode()
        gone = store.check([f"{name}/go"])
        if gone and name == answered:
            return untyped.PrefixStore(name, store)
        if not gone and name != answered:
            store.set(f"{name}/{world.rank}", "")
            answered = name
        time.sleep(0.02)
