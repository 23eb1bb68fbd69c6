"""Where to compute."""

import sys

import torch

from vlae_fast import ops
from vlae_fast.checks import shown
from vlae_fast.params import MADEFlowParams

__all__ = ["pick"]


def pick(name: str | torch.device) -> torch.device:
    """The device of this name: cpu, cuda or cuda:i; auto is a GPU if torch has one and the ops run there, else the CPU.

    Raises ValueError for another name, and for a GPU that is not there or on which the ops do not run.
    """
    if isinstance(name, str) and name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        try:
            _try(torch.device("cuda"))
        except Exception as error:  # whatever a driver or a compiler may say
            print(f"device: the CPU, as the GPU does not work ({_line(error)})", file=sys.stderr)
            return torch.device("cpu")
        return torch.device("cuda")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError, ValueError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: auto, cpu or cuda[:i] wanted, got {shown(name)}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            build = f"torch {torch.__version__}" + (" is built without CUDA" if torch.version.cuda is None else "")
            raise ValueError(f"device: {name} wanted, but there are {count} GPUs here ({build})")
        try:
            _try(device)
        except Exception as error:
            raise ValueError(f"device: {name} does not work ({_line(error)})") from None
    return device


def _try(device: torch.device) -> None:
    """Runs an op of each kind, a Triton kernel and one of the CUDA extension. Raises what they raise."""
    one = torch.ones(1, 1, 1, device=device)
    ops.weight_norm(one[0], one[0, 0], torch.ones(1, dtype=torch.int64, device=device))
    bias = one[0]
    params = MADEFlowParams(one, bias, one, bias, one, bias, torch.zeros(1, dtype=torch.int64, device=device))
    ops.made_flow_inverse(one[0], params).cpu()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
