"""Both compiled bodies refuse every operand that does not fit, however they are called; nothing is launched for it."""

import re
import subprocess
import sys

import pytest
import torch
from conftest import needs_interpreter
from op_cases import CASES, CPU_ALONE, DIFFERENTIABLE, mapped, outputs
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime import interpreter

from vlae_fast import gpu, native, ops

# What an operand must not be. Each may leave a small tensor as it was; then it is no mutation.
MUTATIONS = {
    "absent": lambda t: None,
    "no tensor": lambda t: 1.0,
    "float64": torch.Tensor.double,
    "integers": torch.Tensor.int,
    "on another device": lambda t: t.to("meta"),
    "sparse": torch.Tensor.to_sparse,
    "an axis more": lambda t: t[None],
    "flat": torch.Tensor.flatten,
    "no axis": lambda t: t.new_zeros(()),
    "empty": lambda t: t[:0],
    "channels last": lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t,
    "transposed": lambda t: t.transpose(0, -1),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[:1].expand(t.shape),
}
OPTIONAL = ("gain", "residual", "hidden_context", "given", "gates")
FREE = [("weight_norm", "v", 1), ("dense", "x", 0), ("resnet", "x", 0), ("exp", "x", 0)]
FREE += [("weight_norms", *axis) for axis in (("v[0]", 1), ("v[0]", 2), ("v[0]", 3), ("v[1]", 0))]
"""Axes that no other operand shares."""


def mutated(op, operand, tensor):
    """What the mutations make of an operand of an op that must not be taken."""
    changed = {name: change(tensor.detach()) for name, change in MUTATIONS.items()}
    if (op, operand, 0) in FREE:
        del changed["empty"]
    if op == "exp":  # there is no other operand
        del changed["on another device"]
    for axis in range(tensor.dim()):
        if (op, operand, axis) not in FREE:
            changed[f"axis {axis} too short"] = tensor.narrow(axis, 0, tensor.shape[axis] - 1).contiguous()
            changed[f"axis {axis} too long"] = torch.cat([tensor, tensor], axis)
    for mutation, other in changed.items():
        if not same(tensor, other) and not (other is None and operand in OPTIONAL):
            yield mutation, other


def same(a, b):
    """No body could tell the tensors apart, but for their values."""
    return (
        isinstance(b, torch.Tensor)
        and (a.shape, a.dtype, a.device, a.layout) == (b.shape, b.dtype, b.device, b.layout)
        and b.is_contiguous()
    )


class Recorder(TorchDispatchMode):
    """Every call of an operator of ours, and the names of torch's own that were called."""

    def __init__(self):
        super().__init__()
        self.calls, self.others = {}, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "vlae_fast":
            self.calls[func._schema.name.removeprefix("vlae_fast::")] = func._schema, args
        else:
            self.others.add(func._schema.name)
        return func(*args, **(kwargs or {}))


def calls_of(op):
    """What the public function and its gradient hand to the bodies: name -> schema, arguments."""
    with Recorder() as recorder:
        found = getattr(ops, op)(**mapped(CASES[op](), lambda t: t.requires_grad_(op in DIFFERENTIABLE)))
        if op in DIFFERENTIABLE:
            sum(t.sum() for t in outputs(found)).backward()
    return recorder.calls


def replacements(schema, arguments):
    """For every tensor of a call: its name, the tensor, and the arguments with another one in its place."""
    for i, (argument, value) in enumerate(zip(schema.arguments, arguments, strict=True)):
        before, after = arguments[:i], arguments[i + 1 :]
        if isinstance(value, torch.Tensor):
            yield argument.name, value, lambda new, before=before, after=after: (*before, new, *after)
        elif isinstance(value, list) and isinstance(value[0], torch.Tensor):
            for k, tensor in enumerate(value):

                def replaced(new, value=value, k=k, before=before, after=after):
                    return *before, [*value[:k], new, *value[k + 1 :]], *after

                yield f"{argument.name}[{k}]", tensor, replaced


@pytest.mark.parametrize("body", [native, pytest.param(gpu, marks=needs_interpreter)], ids=["native", "gpu"])
@pytest.mark.parametrize("op", CASES)
def test_no_body_takes_an_operand_that_does_not_fit(op, body):
    if body is gpu and op in CPU_ALONE:
        pytest.skip("no CUDA body")
    calls = calls_of(op)
    assert {op} <= calls.keys() <= {op, f"{op}_backward"}
    for name, (schema, arguments) in calls.items():
        tried, taken = 0, []
        for operand, tensor, replaced in replacements(schema, arguments):
            for mutation, other in mutated(name, operand, tensor):
                tried += 1
                try:
                    getattr(body, name)(*replaced(other))
                except (ValueError, TypeError) as error:
                    assert re.search("wanted|fit|needs", str(error)), error
                else:
                    taken.append(f"{operand}: {mutation}")
        assert (taken, tried > 8) == ([], True), name


@needs_interpreter
@pytest.mark.parametrize("op", [op for op in CASES if not op.startswith("made")])  # those call no torch op
def test_a_gpu_body_copies_nothing_from_the_host_and_asks_for_no_value(op, monkeypatch):
    """A CUDA graph could not capture it, not even where it is the first call."""
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", lambda *arguments, **options: None)  # no kernel runs
    for name, (_, arguments) in calls_of(op).items():
        with torch.no_grad(), Recorder() as recorder:
            getattr(gpu, name)(*arguments)
        assert recorder.others
        assert recorder.others.isdisjoint({"aten::lift_fresh", "aten::_to_copy", "aten::_local_scalar_dense"}), name


def message_of(code):
    """What a process of its own, with no interpreter and maybe no Triton, says last."""
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env={})
    return result.stderr.strip().splitlines()[-1]


CALL = "import torch; from vlae_fast import gpu; x = torch.zeros(1, 1, 3, 3); b = torch.zeros(1)\n"
CALL += "gpu.masked_conv3x3(x, x, b, None, None, 'A', False, 1.0)"


def test_without_triton_the_mend_is_named():
    blocked = "import os, sys; sys.modules['triton'] = None; os.environ['TRITON_INTERPRET'] = '1'\n"
    message = message_of(blocked + CALL)
    assert message.startswith("RuntimeError: vlae_fast: CUDA tensors need Triton, which is not installed: pip install")


def test_without_a_gpu_the_mend_is_named():
    message = message_of(CALL)
    assert message.startswith("RuntimeError: vlae_fast: the CUDA kernels cannot run on the device cpu: move the")
    assert torch.version.cuda is not None or "a CUDA build of torch" in message
