"""Arguments of every op at several sizes, on any device, and how the workers of `gpu_report.py` tell what they found.

The smallest arguments and the tolerances are those of the tests (tests/test_ops.py, tests/conftest.py).
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))  # its conftest, not the benchmarks'
import test_ops as tests
from conftest import made_params as made_params

os.environ.pop("TRITON_INTERPRET", None)  # set by the tests; the kernels, imported later, are to be compiled

from vlae_fast import PixelCNNSpec

OPS = list(tests.CASES)
R1, R4 = PixelCNNSpec(), PixelCNNSpec(block_convs=2)
SIZES: dict[str, list[dict[str, Any]]] = {
    "masked_conv3x3": [
        {},
        {"N": 3, "C": 1, "K": 5, "H": 1, "W": 9},
        {"N": 2, "C": 33, "K": 17, "H": 9, "W": 32},
        {"N": 9, "C": 12, "K": 12, "H": 28, "W": 28},
    ],
    "pixelcnn": [
        {},
        {"N": 1, "K": 0, "H": 1, "W": 1, "L": 0, "P": 0, "C": 1},
        {"N": 3, "K": 4, "H": 28, "W": 28, "L": 12, "P": 4, "C": 12, "spec": R4},
        {"N": 9, "K": 4, "H": 28, "W": 28, "L": 5, "P": 4, "C": 12, "spec": R1},
        {"N": 2, "K": 3, "H": 9, "W": 33, "L": 2, "P": 1, "C": 20, "spec": PixelCNNSpec(visible_stride=2)},
    ],
    "made_flow": [
        {},
        {"N": 1, "D": 1, "M": 3, "T": 1},
        {"N": 33, "D": 5, "M": 33, "T": 3},
        {"N": 65, "D": 64, "M": 640, "T": 4},
    ],
    "weight_norm": [{}],
}


def sizes(op: str) -> list[dict[str, Any]]:
    """Arguments of `arguments` that cover an op, the smallest first."""
    return next(value for name, value in SIZES.items() if op.startswith(name))


def moved(value: Any, device: str) -> Any:
    """The same with every tensor on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(v, device) for name, v in value.items()}
    return type(value)(*(moved(v, device) for v in value)) if hasattr(value, "_fields") else value


def arguments(op: str, device: str, spec: PixelCNNSpec | None = None, **size: int) -> dict[str, Any]:
    """Random arguments of an op."""
    if op == "pixelcnn_sample":
        made = tests.stack_arguments(**size)
        x = made.pop("x")[:, 0]
        made |= {"uniforms": torch.rand_like(x), "given": torch.randint(-1, 2, x.shape, dtype=torch.int8)}
        made["given"][torch.rand_like(x) < 0.8] = -1
    else:
        made = tests.CASES[op](**({"name": "eps"} if op == "made_flow_inverse" and size else {}), **size)
    if spec is not None:
        made["spec"] = spec
    return moved(made, device)


class Recorder(TorchDispatchMode):
    """Remembers the calls of our operators: (overload, arguments)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "vlae_fast":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def batch_axis(op: str, values: dict[str, Any]) -> Iterator[str]:
    """Names of the arguments that have a batch axis."""
    names = ("x", "context", "residual", "uniforms", "given", "z", "eps", "hidden_context")
    yield from (name for name in names if isinstance(values.get(name), Tensor))


class SkippedError(Exception):
    """This cannot be tried here; the text says why."""


def attempt(name: str, function: Callable[[], dict[str, Any] | None]) -> None:
    """Runs a check or a measurement and writes what came out as a line of JSON; goes on after any error."""
    try:
        record = {"status": "ok", **(function() or {})}
    except SkippedError as reason:
        record = {"status": "skipped", "detail": str(reason)}
    except Exception as error:
        record = {"status": "failed", "detail": f"{type(error).__name__}: {error}"[:1500]}
    print(json.dumps({"name": name, **record}), flush=True)
