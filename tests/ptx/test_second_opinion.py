"""Another judge of the compiled kernels: sentryward proves them free of races and deadlocks in every schedule.

For the sizes of one launch: one image of 3x3 pixels. It follows no branch that depends on data (the list of stages is
fixed), so not the log-likelihood's logarithm; and for the stack's backward pass it takes too long.
Needs VLAE_FAST_PTX=80 and the package sentryward.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from op_cases import conv_tensors, stack_tensors
from torch import Tensor

from ptx import executor
from vlae_fast import gpu
from vlae_fast.config import PixelCNNSpec

sentryward = pytest.importorskip("sentryward")
pytestmark = pytest.mark.skipif(os.environ.get("VLAE_FAST_PTX") != "80", reason="VLAE_FAST_PTX is not 80")

SECONDS = 600.0


def described(kernel: Any, grid: tuple[int, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    """A launch as sentryward wants it: sizes, scalars, and the one list that tells a kernel where to branch."""
    scalars, lists = [], []
    passed = [(*of, v) for of, v in zip(kernel.src.signature.items(), values, strict=True) if of[1] != "constexpr"]
    for i, (name, kind, value) in enumerate(passed):
        parameter = f"{kernel.name}_param_{i}"
        if name in ("stages", "stages_ptr"):
            lists.append({"parameter": parameter, "shapes": value.tolist()})
        elif not isinstance(value, Tensor):
            scalars.append({"parameter": parameter, "type": {"fp32": "f32", "i32": "u32"}[kind], "value": value})
    return {
        "schema": "spverify.kernel-input/v1",
        "launch": {
            "grid_dim": grid,
            "block_dim": [32 * kernel.metadata.num_warps, 1, 1],
            "dynamic_shared_bytes": kernel.metadata.shared,
        },
        "arguments": scalars,
        "shape_arrays": lists,
    }


@pytest.fixture
def barriers() -> str:
    """What stands for a barrier in the PTX that sentryward reads."""
    return "bar.sync"


@pytest.fixture
def results(
    _compiled_kernels: executor.Session, barriers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """What sentryward says of each kernel that is launched."""
    found: dict[str, str] = {}
    original, ptx, sizes = executor._triton_launch, tmp_path / "kernel.ptx", tmp_path / "launch.json"

    def launcher(session: executor.Session, kernel: Any, programs: Any) -> Any:
        run = original(session, kernel, programs)

        def launch(x: int, y: int, z: int, *rest: Any) -> None:
            run(x, y, z, *rest)
            ptx.write_text(kernel.asm["ptx"].replace("bar.sync", barriers))
            sizes.write_text(json.dumps(described(kernel, (x, y, z), rest[6:])))
            found[kernel.name] = sentryward.verify(ptx, input=sizes, timeout_seconds=SECONDS)["result"]

        return launch

    monkeypatch.setattr(executor, "_triton_launch", launcher)
    return found


@pytest.mark.parametrize("barriers", ["bar.sync", "// bar.sync"])
def test_masked_conv(barriers: str, results: dict[str, str]) -> None:
    x, weight, bias, gain, residual = conv_tensors(1, 2, 3, 3, 3)
    gpu.masked_conv3x3(x, weight, bias, gain, residual, "B", True, 0.7)
    gpu.masked_conv3x3_backward(torch.randn(1, 3, 3, 3), x, weight, gain, "B", True, 0.7)
    weight_gradient = "race_free" if barriers == "bar.sync" else "potential_race"  # it alone has barriers
    assert results == {
        "masked_conv3x3_forward_kernel": "race_free",
        "masked_conv3x3_backward_input_kernel": "race_free",
        "masked_conv3x3_backward_weight_kernel": weight_gradient,
    }


@pytest.mark.parametrize("op", ["pixelcnn_logits", "pixelcnn_sample"])
def test_pixelcnn(op: str, results: dict[str, str]) -> None:
    (x, context, params), wiring = stack_tensors(
        1, 3, 3, {"C": 2, "K": 1, "L": 1, "P": 1}, PixelCNNSpec(0.7, 1, (0,), 2)
    )
    if op == "pixelcnn_sample":
        gpu.pixelcnn_sample(context, params, torch.rand(1, 3, 3), *wiring, 1.0, None)
    else:
        gpu.pixelcnn_logits(x, context, params, *wiring)
    assert list(results.values()) == ["race_free"]
