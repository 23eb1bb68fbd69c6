"""What a model and the tensors it is called with must be. Checks name the argument, what came and what was wanted."""

from typing import Any

import torch
from torch import Tensor

from vlae_fast.config import VLAEConfig
from vlae_fast.ops import values
from vlae_fast.ops.backend import reference_chosen

__all__ = [
    "check_codes",
    "check_dense",
    "check_given",
    "check_has_values",
    "check_images",
    "check_parameter",
    "check_result",
]


def check_has_values(parameter: Tensor) -> None:
    """Raises ValueError on the meta device."""
    if parameter.is_meta:
        raise ValueError("model: on the meta device it has no values; to_empty, then load_state_dict give it some")


def check_parameter(parameter: Tensor) -> None:
    """Raises ValueError or TypeError where a model of such parameters cannot run."""
    check_has_values(parameter)
    if parameter.dtype != torch.float32 and not reference_chosen():
        raise TypeError(
            f"model: float32 parameters wanted, got {parameter.dtype}; half precision comes by torch.autocast around a "
            "float32 model, other dtypes (torch's default as it was made?) run under vlae_fast.use_backend('reference')"
        )


def check_dense(name: str, value: Any) -> None:
    """Raises TypeError for what is no dense tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: a tensor wanted, got {type(value).__name__}")
    if value.is_nested or value.layout != torch.strided:
        got = "a nested one" if value.is_nested else f"{value.layout}; to_dense makes one"
        raise TypeError(f"{name}: a dense tensor wanted, got {got}")


def check_result(*results: Tensor) -> None:
    """Raises NonFiniteError where a model of NaN or huge weights gave NaN or infinity, which would pass for figures."""
    for result in results:
        values.finite(**{"what the model gives": result})


def check_images(images: Any, like: Tensor, config: VLAEConfig) -> None:
    """Images are [N, 1, H, W] of 0 and 1, of the dtype and on the device of `like`; TypeError or ValueError else.

    Their values are not looked at on a GPU, nor under torch.compile and torch.func (`ops.values`).
    """
    H, W = config.height, config.width
    check_dense("images", images)
    if images.dtype != like.dtype:
        raise TypeError(f"images: {like.dtype} wanted, got {images.dtype}")
    if images.device != like.device:
        raise ValueError(f"images: device {like.device} (that of the model) wanted, got {images.device}")
    if images.dim() != 4 or images.shape[1:] != (1, H, W):
        raise ValueError(f"images: shape [N, 1, {H}, {W}] wanted, got {list(images.shape)}")
    values.binary("images", images)


def check_given(given: Any, n: int | None, like: Tensor, config: VLAEConfig) -> None:
    """Pixels to keep are int8 [n, H, W] of -1, 0 and 1, any n if it is None; TypeError or ValueError else."""
    check_dense("given", given)
    shape = [*(given.shape[:1] if n is None else [n]), config.height, config.width]
    if given.dtype != torch.int8 or list(given.shape) != shape:
        wanted = f"torch.int8 [{'N' if n is None else n}, {config.height}, {config.width}]"
        raise ValueError(f"given: {wanted} wanted, got {given.dtype} {list(given.shape)}")
    if given.device != like.device:
        raise ValueError(f"given: device {like.device} (that of the model) wanted, got {given.device}")
    values.within("given", given, "values -1, 0 or 1", -1, 1)


def check_codes(name: str, z: Any, n: int | None, like: Tensor, config: VLAEConfig) -> None:
    """Codes, or their noise, are [n, D] of finite numbers, any n if it is None, of the dtype and device of `like`.

    TypeError or ValueError else.
    """
    check_dense(name, z)
    shape = [*(z.shape[:1] if n is None else [n]), config.latent_size]
    if (z.dtype, list(z.shape), z.device) != (like.dtype, shape, like.device):
        wanted = f"{like.dtype} [{'N' if n is None else n}, {config.latent_size}] {like.device}"
        raise ValueError(f"{name}: {wanted} wanted, got {z.dtype} {list(z.shape)} {z.device}")
    values.finite(**{name: z})
