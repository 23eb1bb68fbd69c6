"""Checks of the values in tensors, the same in every body.

They look where that costs little: at CPU tensors, but not at a GPU's (nothing waits for it), nor at a tensor that
torch.compile traces or a transform of torch.func wraps (it has no values yet). All raise ValueErrors that name the
tensor, NonFiniteErrors where it holds NaN or infinity.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast.checks import NonFiniteError, shown

__all__ = ["binary", "degrees", "drawn", "finite", "order", "uniform", "within"]


def finite(**tensors: Tensor | None) -> None:
    """No NaN and no infinity."""
    for name, tensor in tensors.items():
        values = None if tensor is None else _values(tensor)
        if values is not None and not np.isfinite(values).all():
            raise NonFiniteError(f"{name}: finite values wanted, got NaN or infinity")


def binary(name: str, tensor: Tensor) -> None:
    """Pixels 0 or 1."""
    values = _values(tensor)
    if values is not None and not ((values == 0) | (values == 1)).all():
        _refuse(name, "binary pixels (0 or 1)", values)


def uniform(name: str, tensor: Tensor) -> None:
    """Numbers in [0, 1), where half precision rounds some to 1."""
    values = _values(tensor)
    below = 1.0 if tensor.dtype.itemsize > 2 else np.nextafter(1.0, 2.0)
    if values is not None and values.size and not (values.min() >= 0 and values.max() < below):
        _refuse(name, "values in [0, 1)", values)


def within(name: str, tensor: Tensor, wanted: str, least: int, most: int) -> None:
    """Whole numbers in least..most."""
    values = _values(tensor)
    if values is not None and values.size and not (values.min() >= least and values.max() <= most):
        _refuse(name, wanted, values)


def degrees(tensor: Tensor, latent_size: int) -> None:
    """Degrees of hidden units, sorted."""
    order = _values(tensor)
    if order is None or order.size == 0:
        return
    if not (order[0] >= 0 and order[-1] < latent_size and (order[1:] >= order[:-1]).all()):
        _refuse("params.degrees", f"non-decreasing degrees in 0..{latent_size - 1}", order)


def order(degrees: Tensor, positions: Tensor) -> None:
    """Degrees and positions of MADEParams."""
    D = positions.numel()
    within("params.degrees", degrees, f"degrees in 0..{D}", 0, D)
    places = _values(positions)
    if places is not None and not (np.sort(places) == np.arange(D)).all():
        raise ValueError(f"params.positions: 0..{D - 1}, each once, wanted, got {shown(places.tolist())}")


def drawn(images: Tensor) -> None:
    """What a PixelCNN drew: a sampler writes NaN where a logit is NaN, as parameters are not looked at."""
    values = _values(images)
    if values is not None and values.size and np.isnan(values.max()):  # which is NaN if any value is
        raise NonFiniteError("params: they make logits that are NaN, from which no pixel can be drawn")


def _values(tensor: Tensor) -> NDArray[Any] | None:
    """The values for numpy to look at: torch would use its own threads, which hang in a forked process."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    tensor = tensor.detach()
    try:
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    except RuntimeError:  # of a transform
        return None


def _refuse(name: str, wanted: str, values: NDArray[Any]) -> None:
    error = ValueError if np.isfinite(values).all() else NonFiniteError
    raise error(f"{name}: {wanted} wanted, got {values.min()} to {values.max()}")
