"""The CUDA bodies of the MADE flow, run on the CPU by tests/cuda_sim.h, against the float64 reference."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cuda_sim
import pytest
import torch
from conftest import made_params
from ptx import cuda
from test_made_native import arguments, check_against_reference

from vlae_fast import gpu, masks
from vlae_fast.ops.made import gpu as made_gpu

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
FLAGS = os.environ.get("CUDA_SIM_CXXFLAGS", "")
# The inverse's ways, by what the simulated chip has.
WAYS = {
    "latency": {},
    "throughput": {"CUDA_SIM_MULTIPROCESSORS": "0"},
    "16 samples a block": {"CUDA_SIM_MULTIPROCESSORS": "0", "CUDA_SIM_SHARED_BYTES": "100000"},
    "activations in global memory": {"CUDA_SIM_SHARED_BYTES": "49152"},
}


@pytest.fixture(scope="module")
def simulated() -> Iterator[ModuleType]:
    if "VLAE_FAST_PTX" in os.environ:  # what nvcc makes of the kernels, executed
        if not cuda.available():
            pytest.skip("needs nvcc")
        with cuda.module(int(os.environ["VLAE_FAST_PTX"])) as (module, _):
            yield module
        return
    yield cuda_sim.load(cuda_sim.build(BUILD / ("cuda-sim-sanitized" if FLAGS else "cuda-sim"), flags=FLAGS))


@pytest.fixture(autouse=True)
def _cuda(simulated: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The launchers of gpu/made.py run the simulated module, in scratch full of NaN, and write nothing behind it."""
    scratches = []

    def scratch(y: torch.Tensor, count: int) -> torch.Tensor:
        scratches.append(torch.full((count + 64,), torch.nan))
        return scratches[-1]

    monkeypatch.setattr(made_gpu, "_cuda", lambda: simulated)
    monkeypatch.setattr(made_gpu, "_scratch", scratch)
    yield
    assert all(s[-64:].isnan().all() for s in scratches)


CASES = {  # N, D, M, T, degrees
    "paper-like": (33, 64, 160, 2, None),
    "one sample": (1, 64, 100, 2, None),
    "units no multiple of dimensions": (3, 5, 33, 3, None),
    "one dimension": (3, 1, 40, 2, None),
    "wide": (3, 130, 70, 1, None),
    "all units of degree 0": (33, 6, 70, 2, [0] * 70),
    "one crowded degree": (5, 9, 150, 2, [1] * 2 + [4] * 140 + [7] * 8),
    "absent degrees": (17, 80, 12, 2, [3] * 5 + [20] + [78] * 6),
    "units that no output sees": (4, 4, 6, 2, [3] * 6),
    "no samples": (0, 4, 6, 2, None),
    "no steps": (3, 4, 6, 0, None),
    "no units": (3, 4, 0, 2, None),
}


@pytest.mark.parametrize("with_context", [False, True])
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_equals_reference(case: str, scale: bool, with_context: bool) -> None:
    N, D, M, T, degrees = CASES[case]
    degrees = None if degrees is None else torch.tensor(degrees)
    check_against_reference(N, made_params(D, M, T, scale, degrees), with_context, gpu)


@pytest.mark.parametrize("order", ["falling", "shuffled"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", ["units no multiple of dimensions", "one crowded degree"])
def test_equals_reference_in_any_order_and_way(
    case: str, way: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ({"CUDA_SIM_ORDER": order} | WAYS[way]).items():
        monkeypatch.setenv(name, value)
    _, D, M, T, degrees = CASES[case]
    degrees = None if degrees is None else torch.tensor(degrees)
    check_against_reference(35, made_params(D, M, T, True, degrees), True, gpu)


@pytest.mark.parametrize("scale", [False, True])
def test_same_bits_for_any_split_and_way(scale: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    params = made_params(D=20, M=150, T=2, scale=scale)
    z, context = arguments(70, params, True)
    deps, dlog_det = torch.randn_like(z), torch.randn(len(z))

    def run(rows: slice) -> list[torch.Tensor]:
        drawn = gpu.made_flow_inverse(z[rows], list(params), context[rows])
        dz, dcontext, *_ = gpu.made_flow_forward_backward(
            deps[rows], dlog_det[rows], z[rows], list(params), context[rows]
        )
        return [*gpu.made_flow_forward(z[rows], list(params), context[rows]), drawn, dz, dcontext]

    whole = run(slice(None))
    for environment in WAYS.values():
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            for begin, end in ((0, 70), (0, 1), (3, 40)):
                assert all(map(torch.equal, run(slice(begin, end)), (t[begin:end] for t in whole)))


@pytest.mark.parametrize("way", ["latency", "throughput"])
def test_forbidden_weights_are_ignored(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WAYS[way].items():
        monkeypatch.setenv(name, value)
    params = made_params(D=9, M=141, T=2, scale=True)
    z, _ = arguments(5, params, False)
    first, second, third = masks.made_masks(params.degrees, 9, like=z)
    spoiled = list(params)
    for i, mask in ((0, first), (2, second), (4, third.repeat(2, 1))):
        spoiled[i] = torch.where(mask == 0, torch.nan, params[i])
    for function in (gpu.made_flow_forward, lambda *a: (gpu.made_flow_inverse(*a),)):
        for actual, wanted in zip(function(z, spoiled, None), function(z, list(params), None), strict=True):
            assert torch.equal(actual, wanted)


@pytest.mark.parametrize("degrees", [[5, 3, 0, 2, 1, 4] * 12, [-(2**40), 2**40, 7] * 24, [100] * 72])
def test_degrees_out_of_order_or_range_do_no_harm(degrees: list[int]) -> None:
    """They are on the GPU, so nobody checks them: results mean nothing, but the fixture looks at what was written."""
    params = made_params(D=6, M=72, T=1, scale=True, degrees=torch.tensor(degrees))
    z, context = arguments(5, params, True)
    gpu.made_flow_inverse(z, list(params), context)
    eps, log_det = gpu.made_flow_forward(z, list(params), context)
    gpu.made_flow_forward_backward(eps, log_det, z, list(params), context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, p: (z, [p[0][..., :4], *p[1:]]), r"params.weight1: a contiguous .* of shape \[2, 12, 5\] on cpu"),
        (lambda z, p: (z.T.contiguous().T, p), "eps: a contiguous"),
        (lambda z, p: (z, [*p[:6], p[6].int()]), "params.degrees: a contiguous torch.int64"),
        (
            lambda z, p: (z, [*p[:4], p[4][:, :7].contiguous(), p[5][:, :7].contiguous(), p[6]]),
            r"params.bias3: \[T, 5\] or \[T, 10\] wanted, got \[2, 7\]",
        ),
        (
            lambda z, p: (z[:, :0], [p[0][..., :0], *p[1:4], p[4][:, :0], p[5][:, :0], p[6]]),
            "params: 12 hidden units without inputs",
        ),
    ],
)
def test_wrong_arguments_are_clear_errors(change, message: str) -> None:
    z, params = change(torch.randn(3, 5), list(made_params(D=5, M=12, T=2, scale=True)))
    with pytest.raises(ValueError, match=message):
        gpu.made_flow_inverse(z, params, None)


def test_a_launch_that_fails_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_SIM_SHARED_BYTES", str(1 << 30))  # more than there is, so too much is asked for
    params = made_params(D=30_000, M=1, T=1)
    with pytest.raises(RuntimeError, match=r"made_flow_inverse: CUDA error 1 \(cudaErrorInvalidValue\)"):
        gpu.made_flow_inverse(torch.randn(1, 30_000), list(params), None)


# --- Missing barriers -------------------------------------------------------------------------------------------

SITES = [
    f"{path.name}:{number}"
    for path in sorted([*ROOT.glob("csrc/made/*.cu"), *ROOT.glob("csrc/made/*cuda.h")])
    for number, line in enumerate(path.read_text().splitlines(), 1)
    if re.search(r"__sync(threads|warp)\(\)", line)
]
RACES = {"panels": "37 9 75 2 1 0", "one crowded degree": "3 4 75 2 1 70"}  # arguments of made_race.cpp


def races(case: str, environment: dict[str, str]) -> bool:
    """Does ThreadSanitizer find any?"""
    program = cuda_sim.build(BUILD / "cuda-race", "made_race", "-fsanitize=thread")
    result = subprocess.run(
        [program, *RACES[case].split()],
        env=cuda_sim.without_preloads() | {"TSAN_OPTIONS": "halt_on_error=1"} | environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == (66 if "data race" in result.stderr else 0), result.stderr
    return result.returncode == 66


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", RACES)
def test_no_races(case: str, way: str) -> None:
    assert not races(case, WAYS[way])


@pytest.mark.slow
@pytest.mark.parametrize("site", SITES)
def test_every_barrier_is_missed(site: str) -> None:
    """Without any one of them ThreadSanitizer finds a race: none is idle, and none could go missing unseen."""
    skip = {"CUDA_SIM_SKIP": site} | WAYS["throughput"]
    assert any(races(case, skip) for case in RACES)
