"""Ways to run the plain torch meaning of an op (`vlae_fast.reference`)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[..., Any]


def compiled(function: Function) -> Function:
    return torch.compile(function, dynamic=False)


def channels_last(function: Function) -> Function:
    """Image tensors [N, C, H, W] are laid out channels last first, inside the clock."""

    def run(*arguments: Any) -> Any:
        return function(*(_channels_last(a) for a in arguments))

    return run


def _channels_last(argument: Any) -> Any:
    if isinstance(argument, Tensor) and argument.dim() == 4 and argument.shape[2:] != (3, 3):
        return argument.contiguous(memory_format=torch.channels_last)
    return argument


WAYS: dict[str, Callable[[Function], Function]] = {
    "torch eager": lambda function: function,
    "torch.compile": compiled,
    "torch.compile channels last": lambda function: compiled(channels_last(function)),
}
