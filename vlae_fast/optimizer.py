"""Adamax (Kingma & Ba 2015, arXiv:1412.6980, sec. 7.1) that averages the weights too, on a CPU in one pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version
from torch.optim.swa_utils import get_ema_multi_avg_fn

from vlae_fast import _native

__all__ = ["AveragingAdamax"]

_ONE = torch.tensor(1.0, device="cpu")
"""A number instead would be made a tensor and copied, for every weight."""


class AveragingAdamax(torch.optim.Adamax):
    """torch's, state and all; in each step every average keeps `keep` of itself and takes the rest from its weight."""

    def __init__(self, weights: Sequence[Tensor], averages: Sequence[Tensor], lr: float, keep: float = 0.0) -> None:
        """averages: one for each weight, of its shape."""
        if len(averages) != len(weights) or not all(map(_same_shape, weights, averages)):
            raise ValueError(f"averages: one for each of {len(weights)} weights, of its shape, wanted")
        super().__init__(weights, lr=lr)
        self.averages, self.keep = averages, keep

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Moves the weights, then the averages."""
        (group,) = self.param_groups
        weights: list[Tensor] = group["params"]
        if closure is not None or not all(map(_plain, [*weights, *self.averages])):
            loss = super().step(closure)
            get_ema_multi_avg_fn(self.keep)(list(self.averages), weights, 0)
            return loss
        for weight, average in zip(weights, self.averages, strict=True):
            if weight.grad is None:
                average.lerp_(weight, 1 - self.keep)
            else:
                self._move(group, weight, weight.grad.contiguous(), average)
        increment_version([*weights, *self.averages])  # as torch's own functions do
        return None

    def _move(self, group: dict[str, Any], weight: Tensor, grad: Tensor, average: Tensor) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros_like(_ONE)
            state["exp_avg"], state["exp_inf"] = torch.zeros_like(weight), torch.zeros_like(weight)
        moments = state["exp_avg"], state["exp_inf"]
        assert all(_plain(t) and _same_shape(weight, t) for t in (grad, *moments))
        state["step"] += _ONE
        beta1, beta2 = group["betas"]
        step_size = group["lr"] / (1 - beta1 ** state["step"].item())
        numbers = step_size, beta1, beta2, group["eps"], self.keep
        changed = (t.data_ptr() for t in (weight, *moments, average))
        _native.adamax(weight.numel(), numbers, grad.data_ptr(), torch.get_num_threads(), *changed)


def _plain(t: Tensor) -> bool:
    """Can the native code read it?"""
    return t.device.type == "cpu" and t.dtype == torch.float32 and t.layout == torch.strided and t.is_contiguous()


def _same_shape(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape
