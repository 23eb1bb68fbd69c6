"""What the launches of all Triton kernels share."""

import importlib
import os
from typing import Any

import torch
from torch import Tensor

from vlae_fast.kernels.table import Config, choose

__all__ = ["cdiv", "check_counts", "config_of", "kernels_of", "resident_programs"]


def kernels_of(stem: str, x: Tensor) -> Any:
    """The module `vlae_fast.kernels.<stem>`, once it is known that its kernels can run on the device of x."""
    if x.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        mend = "move the tensors to a GPU"
        if torch.version.cuda is None:
            mend += f" with a CUDA build of torch (this is {torch.__version__}; see pytorch.org)"
        raise RuntimeError(f"vlae_fast: the CUDA kernels cannot run on the device {x.device}: {mend}")
    try:
        return importlib.import_module(f"vlae_fast.kernels.{stem}")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise RuntimeError(
            "vlae_fast: CUDA tensors need Triton, which is not installed: pip install 'vlae_fast[gpu]', "
            "or use vlae_fast.use_backend('reference')"
        ) from None


def config_of(kernel: str, channels: int, x: Tensor) -> Config:
    """Launch options on the device of x; of any architecture under the interpreter."""
    if x.device.type != "cuda":
        return choose(kernel, channels)
    major, minor = torch.cuda.get_device_capability(x.device)
    return choose(kernel, channels, 10 * major + minor)


def resident_programs(x: Tensor, config: Config) -> int:
    """How many programs that take block after block are launched on the device of x: two under the interpreter."""
    if x.device.type != "cuda":
        return 2
    count: int = torch.cuda.get_device_properties(x.device).multi_processor_count
    return config.programs * count


def check_counts(**counts: int) -> None:
    """Raises ValueError for what a kernel could not count in int32; all other offsets are int64."""
    for what, count in counts.items():
        if count >= 2**31:
            raise ValueError(f"too large for the GPU kernels: {what} {count}, fewer than {2**31} wanted")


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
