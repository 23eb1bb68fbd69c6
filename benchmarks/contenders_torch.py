"""Ways to run the plain torch meaning of an op (`vlae_fast.reference`)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Function = Callable[..., Any]


def compiled(function: Function) -> Function:
    return torch.compile(function, dynamic=False)


class Way(NamedTuple):
    """How torch runs a function, and how the images [N, C, H, W] that it gets lie in memory."""

    run: Callable[[Function], Function]
    layout: torch.memory_format

    def laid_out(self, images: Tensor) -> Tensor:
        """The same values and requires_grad; not on the clock."""
        return images.detach().contiguous(memory_format=self.layout).requires_grad_(images.requires_grad)


WAYS = {
    "torch eager": Way(lambda function: function, torch.contiguous_format),
    "torch eager, channels last": Way(lambda function: function, torch.channels_last),
    "torch.compile": Way(compiled, torch.contiguous_format),
    "torch.compile, channels last": Way(compiled, torch.channels_last),
}
