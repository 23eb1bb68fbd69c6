"""CUDA alone in the MADE flow: what nobody checks on a GPU, launches that fail, barriers that must be there."""

import re
import subprocess

import cuda_sim
import pytest
import torch
from bodies import CUDA, every
from conftest import made_params
from op_cases import flow_tensors
from test_made import WAYS

pytestmark = pytest.mark.gpu
ROOT = cuda_sim.ROOT
BUILD = ROOT / "build"


@every(*CUDA)
@pytest.mark.parametrize("degrees", [[5, 3, 0, 2, 1, 4] * 12, [-(2**40), 2**40, 7] * 24, [100] * 72])
def test_degrees_out_of_order_or_range_do_no_harm(body, degrees):
    """They are on the GPU, so nobody checks them: results mean nothing, but the fixture looks at what was written."""
    params = made_params(D=6, M=72, T=1, scale=True, degrees=torch.tensor(degrees))
    z, context, params = body.put([*flow_tensors(5, params, True), params])
    body.made_flow_inverse(z, params, context)
    eps, log_det = body.made_flow_forward(z, params, context)
    body.made_flow_forward_backward(eps, log_det, z, params, context)


@every(CUDA[0])
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
def test_wrong_arguments_are_clear_errors(body, change, message):
    z, params = change(torch.randn(3, 5), list(made_params(D=5, M=12, T=2, scale=True)))
    with pytest.raises(ValueError, match=message):
        body.made_flow_inverse(z, params, None)


@every(CUDA[0])
def test_a_launch_that_fails_is_a_clear_error(body, monkeypatch):
    monkeypatch.setenv("CUDA_SIM_SHARED_BYTES", str(1 << 30))  # more than there is, so too much is asked for
    params = made_params(D=30_000, M=1, T=1)
    with pytest.raises(RuntimeError, match=r"made_flow_inverse: CUDA error 1 \(cudaErrorInvalidValue\)"):
        body.made_flow_inverse(torch.randn(1, 30_000), list(params), None)


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
