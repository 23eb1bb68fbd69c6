"""The compiled kernels in any order of threads, with a barrier missing, and with planted faults.

Needs VLAE_FAST_PTX=80 (or 90): the architecture to compile for. The kernels' own tests run in that way too.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import assert_close, made_params
from op_cases import conv_tensors, flow_tensors, stack_tensors

from ptx import cuda, executor
from ptx.executor import PTXError, Session
from ptx.program import Program, opcode
from vlae_fast import gpu, masks, native
from vlae_fast.config import PixelCNNSpec
from vlae_fast.ops.made import gpu as made_gpu

pytestmark = pytest.mark.skipif("VLAE_FAST_PTX" not in os.environ, reason="VLAE_FAST_PTX names no architecture")

Outputs = list[torch.Tensor]
Run = Callable[[object], Outputs]
"""Calls an op of `gpu` or `native` on fixed arguments."""


def pixelcnn(op: str) -> Run:
    """Images in several blocks, small ones that share a block, and a stack without layers, which reads its inputs last:
    each with more programs' work than programs."""
    spec, channels = PixelCNNSpec(0.7, 2, (0, 1), 2), 19 if op == "pixelcnn_sample" else 3
    sizes, cases = {"C": channels, "K": 2, "L": 4, "P": 2}, []
    none = sizes | {"L": 0, "P": 0}
    for N, H, W, of, wired in (
        (3, 34, 40, sizes, spec), (70, 6, 7, sizes, spec), (3, 30, 30, none, PixelCNNSpec()),
    ):  # fmt: skip
        (x, context, params), wiring = stack_tensors(N, H, W, of, wired)
        cases.append((x, context, params, torch.rand(N, H, W), torch.randn(N), wiring))

    def run(body: object) -> Outputs:
        found = []
        for x, context, params, uniforms, upstream, wiring in cases:
            if op == "pixelcnn_sample":
                small = (context[:5, :, :4, :5].contiguous(), params, uniforms[:5, :4, :5].contiguous())
                found.append(body.pixelcnn_sample(*small, *wiring, 1.0, None))
            elif op.endswith("backward"):
                found += getattr(body, op)(upstream, x, context, params, *wiring)
            else:
                found.append(getattr(body, op)(x, context, params, *wiring))
        return found

    return run


def masked_conv(backward: bool) -> Run:
    x, weight, bias, gain, residual = conv_tensors(2, 5, 14, 9, 11)
    dy = torch.randn(2, 14, 9, 11)

    def run(body: object) -> Outputs:
        if backward:
            return list(body.masked_conv3x3_backward(dy, x, weight, gain, "B", True, 0.7))
        return [body.masked_conv3x3(x, weight, bias, gain, residual, "B", True, 0.7)]

    return run


RUNS = {
    "masked_conv3x3": lambda: masked_conv(False),
    "masked_conv3x3_backward": lambda: masked_conv(True),
    "pixelcnn_logits": lambda: pixelcnn("pixelcnn_logits"),
    "pixelcnn_log_prob": lambda: pixelcnn("pixelcnn_log_prob"),
    "pixelcnn_log_prob_backward": lambda: pixelcnn("pixelcnn_log_prob_backward"),
    "pixelcnn_sample": lambda: pixelcnn("pixelcnn_sample"),
}


@pytest.fixture
def session(_compiled_kernels: Session) -> Iterator[Session]:
    """How the launches run; as before when the test is over."""
    before = dataclasses.replace(_compiled_kernels)
    yield _compiled_kernels
    vars(_compiled_kernels).update(vars(before))


@pytest.mark.parametrize("name", RUNS)
def test_any_order_of_threads(name: str, session: Session) -> None:
    run = RUNS[name]()
    expected = run(native)
    found = []
    for session.order in executor.ORDERS:
        found.append(run(gpu))
    for first, *others in zip(*found, strict=True):
        assert all(torch.equal(first, other) for other in others)
    for actual, wanted in zip(found[0], expected, strict=True):
        assert_close(actual, wanted, "gradient" if "backward" in name else "value")


def without(program: Program, place: int) -> Program:
    """The program with nothing at a place."""
    code = program.code.copy()
    code[place, 0], code[place, 1] = opcode("nop", ":")[0], -1
    return dataclasses.replace(program, code=code)


def barriers(program: Program) -> list[int]:
    return [i for i, pipe in enumerate(program.pipes()) if pipe == "barrier"]


def noticed(run: Run, session: Session, module: object) -> tuple[set[tuple[str, int]], dict[str, Program]]:
    """Which barriers (kernel, place) cannot be missing: there would be a race or another result; and all kernels."""
    seen: dict[str, Program] = {}
    session.change = lambda program: seen.setdefault(program.name, program)
    expected, found = run(module), set()
    for kernel, program in seen.items():
        for place in barriers(program):
            session.change = lambda p, k=kernel, i=place: without(p, i) if p.name == k else p
            try:
                if not all(map(torch.equal, run(module), expected)):
                    found.add((kernel, place))
            except PTXError as error:
                assert "race" in str(error)
                found.add((kernel, place))
    return found, seen


def test_no_barrier_of_the_triton_kernels_can_be_missing(session: Session) -> None:
    """Each tl.debug_barrier is needed in one of its places at least; those that Triton adds are its own affair."""
    needed = set()
    for make in RUNS.values():
        found, seen = noticed(make(), session, gpu)
        needed |= {seen[kernel].sources[place].rsplit(":", 1)[0] for kernel, place in found}
    written = {
        f"{path.name}:{number}"
        for path in (cuda.cuda_sim.ROOT / "kernels").glob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "tl.debug_barrier()" in line
    }
    assert len(written) > 5
    assert written - needed == set()


MADE_WAYS = {"latency": {}, "throughput": {"CUDA_SIM_MULTIPROCESSORS": "0"}}


@pytest.mark.skipif(not cuda.available(), reason="needs nvcc")
@pytest.mark.parametrize("way", MADE_WAYS)
@pytest.mark.parametrize("scale", [False, True])
def test_no_barrier_of_the_made_kernels_can_be_missing(way: str, scale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in MADE_WAYS[way].items():
        monkeypatch.setenv(name, value)
    crowded = masks.made_degrees(70, 150)
    crowded[:90] = 0
    params = made_params(D=70, M=150, T=2, scale=scale, degrees=crowded)
    z, context = flow_tensors(70, params, True)
    deps, dlog_det = torch.randn_like(z), torch.randn(len(z))

    def run(body: object) -> Outputs:
        return [
            *body.made_flow_forward(z, list(params), context),
            *body.made_flow_forward_backward(deps, dlog_det, z, list(params), context),
            body.made_flow_inverse(z, list(params), context),
        ]

    with cuda.module(int(os.environ["VLAE_FAST_PTX"])) as (module, session):
        monkeypatch.setattr(made_gpu, "_cuda", lambda: module)
        found, seen = noticed(run, session, gpu)
    missing = {(kernel, place) for kernel, program in seen.items() for place in barriers(program)} - found
    print(way, scale, len(found), missing)
    assert not missing


# --- the tester, tested -----------------------------------------------------------------------------------------


def swapped(program: Program, wrong: str, right: str) -> Program:
    """The program, in which an opcode does what another one should."""
    code = program.code.copy()
    signature = "w:ww" if wrong.startswith("sub") else "w:www"
    code[code[:, 0] == opcode(right, signature)[0], 0] = opcode(wrong, signature)[0]
    return dataclasses.replace(program, code=code)


def off_by_one(program: Program, place: int) -> Program:
    code = program.code.copy()
    code[place, 4] += 4
    return dataclasses.replace(program, code=code)


def test_a_wrong_opcode_is_noticed(session: Session) -> None:
    run = RUNS["masked_conv3x3"]()
    session.change = lambda program: swapped(program, "sub.f32", "add.f32")
    assert not torch.allclose(run(gpu)[0], run(native)[0], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "access"),
    [
        ("masked_conv3x3", "ld.global.b32"),
        ("pixelcnn_logits", "ld.global.b32"),
        ("pixelcnn_logits", "st.global.b32"),
    ],
)
def test_an_address_off_by_one_is_noticed(name: str, access: str, session: Session) -> None:
    """Wherever the access matters, but where zeros are laid out: the first of them may be one that nobody reads."""
    run = RUNS[name]()
    seen: dict[str, Program] = {}
    session.change = lambda program: seen.setdefault(program.name, program)
    expected, tried, passed = run(gpu), 0, 0

    def harmless(change: Callable[[Program, int], Program], kernel: str, place: int) -> bool:
        session.change = lambda p: change(p, place) if p.name == kernel else p
        try:
            return all(map(torch.equal, run(gpu), expected))
        except PTXError:
            return False

    for kernel, program in seen.items():
        for place in program.find(access)[::2]:
            if not harmless(without, kernel, place):
                tried += 1
                passed += harmless(off_by_one, kernel, place)
    assert tried >= 2
    assert passed <= 0.2 * tried
