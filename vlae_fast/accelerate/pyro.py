"""pyro: the density of values that the flow did not draw itself goes through `_inverse`."""

import sys
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vlae_fast.accelerate.net import Net, Stage, UnsupportedError, activation_name
from vlae_fast.accelerate.swap import Swap

__all__ = ["autoregressive", "swap"]

_TRANSFORMS = "pyro.distributions.transforms.affine_autoregressive"


def _library() -> Any:
    return sys.modules[_TRANSFORMS]


def autoregressive(part: Any) -> bool:
    """Is it one of the library's transforms with a slow side?"""
    if _TRANSFORMS not in sys.modules:
        return False
    conditional = isinstance(part, _library().ConditionalAffineAutoregressive)
    return conditional or (isinstance(part, _library().TransformModule) and getattr(part, "autoregressive", False))


def swap(part: Any) -> Swap:
    """What stands in for the slow method, or for the one that makes the transform. Raises UnsupportedError."""
    conditional = isinstance(part, _library().ConditionalAffineAutoregressive)
    return PyroCondition(part) if conditional else PyroInverse(part)


class PyroInverse(Swap):
    """AffineAutoregressive: scales exp(clamp(s)), or in the stable form g = sigmoid(s + 2)."""

    method = "_inverse"

    def parts(self) -> nn.Module:
        """See `Swap`."""
        return _network(self.module.arn)

    def original(self) -> Any:
        """See `Swap`."""
        return self.module._inverse_stable if self.module.stable else super().original()

    def remove(self) -> None:
        """See `Swap`."""
        super().remove()
        if self.module.stable:
            self.module._inverse = self.module._inverse_stable

    def __call__(self, y: Tensor) -> Tensor:
        """See `Swap`."""
        arn = self.module.arn
        rows, context = y.reshape(-1, y.shape[-1]), None
        if isinstance(arn, partial):
            context = arn.keywords["context"]
            context = context.expand(*y.shape[:-1], -1).reshape(len(rows), context.shape[-1])
        found = self.inverse(rows, context)
        if found is None:
            slow: Tensor = self.original()(y)
            return slow
        x, log_det = found
        self.module._cached_log_scale = -log_det.view(*y.shape[:-1], 1)  # which is only ever summed
        return x.view(y.shape)

    def describe(self, with_context: bool) -> Net:
        """See `Swap`."""
        module = self.module
        if type(module) is not _library().AffineAutoregressive:
            raise UnsupportedError(f"{type(module).__name__} is no affine transform of this library's own")
        low, high = module.log_scale_min_clip, module.log_scale_max_clip
        form = ("gated", (module.sigmoid_bias,)) if module.stable else ("clamped", (low, high))
        return _net(_network(module.arn), with_context, *form)


class PyroCondition(Swap):
    """ConditionalAffineAutoregressive: what `condition` makes is sped up."""

    method = "condition"

    def parts(self) -> nn.Module:
        """See `Swap`."""
        return _network(self.module.nn)

    def __call__(self, context: Tensor) -> Any:
        """See `Swap`."""
        transform = self.original()(context)
        if not self.obstacle():
            PyroInverse(transform).install()
        return transform

    def describe(self, with_context: bool) -> Net:
        """See `Swap`."""
        return _net(_network(self.module.nn), with_context, "exp", ())


def _network(arn: Any) -> Any:
    network = arn.func if isinstance(arn, partial) else arn
    autoregressive_nn: Any = sys.modules["pyro.nn.auto_reg_nn"]
    if type(network) not in (autoregressive_nn.AutoRegressiveNN, autoregressive_nn.ConditionalAutoRegressiveNN):
        raise UnsupportedError(f"a net of its own, {type(network).__name__}")
    return network


def _net(network: Any, with_context: bool, scale: str, numbers: tuple[float, ...]) -> Net:
    """Contexts stand before the variables; the outputs see the variables too where there are skip connections."""
    if network.param_dims != [1, 1]:
        raise UnsupportedError(f"param_dims {network.param_dims}")
    variables = slice(network.context_dim, None)

    def of_context(linear: Any) -> Any:
        columns = slice(network.context_dim)
        return (lambda c: F.linear(c, (linear.mask * linear.weight)[:, columns])) if with_context else None

    def reading_variables(linear: Any) -> Stage:
        return Stage(linear, context=of_context(linear), columns=variables)

    first, *others = network.layers
    stages = [reading_variables(first)]
    stages += [Stage(linear, i, True) for i, linear in enumerate(others[:-1])]
    if network.skip_layer is not None:
        stages.append(reading_variables(network.skip_layer))
    hidden = len(others) - 1
    stages.append(Stage(others[-1], hidden, True, -1 if network.skip_layer is None else hidden + 1))
    D = network.input_dim
    return Net(D, stages, activation_name(network.f), slice(0, D), slice(D, None), scale, numbers)
