"""What all tests share: the one table of tolerances, and random arguments of the ops."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))  # for `benchmarks`; at the end, as vlae_fast may be built elsewhere

import numpy as np
import pytest
import torch
from torch import Tensor

# Read when the kernels are imported: interpreted, unless there is a GPU or VLAE_FAST_PTX names what to compile for.
os.environ["TRITON_INTERPRET"] = "0" if "VLAE_FAST_PTX" in os.environ or torch.cuda.is_available() else "1"

from bodies import body, isa, simulated  # noqa: F401 - fixtures

from vlae_fast import VLAE, VLAEConfig, masks
from vlae_fast.reference import MADEFlowParams, PixelCNNParams

torch.set_num_threads(1)  # small tensors; tests of threads set their own number

needs_interpreter = pytest.mark.skipif(os.environ["TRITON_INTERPRET"] == "0", reason="Triton's kernels are compiled")

# Largest error, relative to the largest value of the float64 reference.
TOLERANCE = {
    "value": 1e-5,  # float32 accumulation through up to 13 layers or 4 flow steps
    "gradient": 1e-4,  # sums over every pixel or sample of the batch
    "network gradient": 1e-3,  # two float32 passes through encoder and decoder
    "tie": 1e-4,  # |u - p| below which a drawn pixel may differ between bodies
    "float64": 1e-10,  # two float64 ways to the same number
}


def assert_close(actual: Tensor, expected: Tensor, kind: str = "value", scale: float = 1e-3) -> None:
    """`actual` equals `expected` within TOLERANCE[kind] of the largest expected value or `scale`; NaN never passes."""
    assert actual.shape == expected.shape, f"shape {tuple(actual.shape)}, {tuple(expected.shape)} wanted"
    actual, expected = actual.cpu(), expected.cpu()
    if expected.numel() == 0:
        return
    error = (actual.double() - expected.double()).abs().max().item()
    scale = max(expected.double().abs().max().item(), scale)
    assert error <= TOLERANCE[kind] * scale, f"error {error:.3g} of {scale:.3g}, {TOLERANCE[kind]} wanted"


def with_threads(counts: Iterable[int]) -> Iterator[int]:
    """Each number of threads in turn, then what was before."""
    before = torch.get_num_threads()
    try:
        for count in counts:
            torch.set_num_threads(count)
            yield count
    finally:
        torch.set_num_threads(before)


TINY = replace(VLAEConfig.preset("tiny"), height=6, width=5)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Images and a saved model, for commands."""
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", (np.random.default_rng(0).random((90, 6, 5)) < 0.3).astype(np.uint8))
    VLAE(TINY).save_pretrained("m")
    return tmp_path


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)
    torch.distributions.Distribution.set_default_validate_args(True)  # torch.compile switches it off for the process


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of all tensors that a test makes, where the machine has it."""
    name: str = request.param
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if name == "cuda" and request.node.callspec.params.get("op") in ("made_forward", "made_inverse"):
        pytest.skip("no CUDA body")
    with torch.device(name):
        yield name


@pytest.fixture(autouse=True, scope="session")
def _signals_as_in_a_terminal() -> None:
    """Whatever started the tests: `nohup` and a shell's background jobs ignore some, and trainings leave it so."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="session")
def _compiled_kernels() -> Iterator[object]:
    """Where VLAE_FAST_PTX asks for it, what runs the compiled kernels: an executor.Session."""
    if "VLAE_FAST_PTX" not in os.environ:
        yield None
        return
    from ptx import executor

    with executor.installed(int(os.environ["VLAE_FAST_PTX"])) as session:
        yield session


def pixelcnn_params(C=12, K=4, L=5, P=4, S=1, scale=1.0, dtype=torch.float32) -> PixelCNNParams:
    """Random parameters whose activations neither vanish nor blow up; forbidden taps are random too."""

    def draw(*shape: int, fan: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype) * scale / max(fan, 1) ** 0.5

    return PixelCNNParams(
        draw(C, 1, 3, 3, fan=4),
        draw(C, K, 3, 3, fan=9 * K),
        draw(C, fan=4),
        draw(S, C, C, 3, 3, fan=5 * C),
        torch.rand(L, C, dtype=dtype) + 0.5,
        draw(L, C, fan=4),
        draw(P, 2, C, C, fan=C),
        draw(P, 2, C, fan=4),
        draw(C, fan=C),
        draw(1, fan=1),
    )


def made_params(D=64, M=640, T=4, scale=False, degrees=None, dtype=torch.float32) -> MADEFlowParams:
    """Random parameters of a MADE flow; forbidden connections are random too. Sizes: see MADEFlowParams."""
    R = 2 * D if scale else D

    def draw(*shape: int, fan: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype) / max(fan, 1) ** 0.5

    return MADEFlowParams(
        draw(T, M, D, fan=D),
        draw(T, M, fan=4),
        draw(T, M, M, fan=M),
        draw(T, M, fan=4),
        draw(T, R, M, fan=4 * M),
        draw(T, R, fan=4),
        masks.made_degrees(D, M) if degrees is None else degrees,
    )


@pytest.fixture
def bars(tmp_path):
    """Images of one to three vertical bars, grey at their edges: there is something to learn."""
    rng = np.random.default_rng(0)
    images = np.zeros((200, 9, 8), np.uint8)
    for image in images:
        for column in rng.integers(0, 8, rng.integers(1, 4)):
            image[:, column] = rng.choice([130, 255])
    np.save(tmp_path / "bars.npy", images)
    return tmp_path / "bars.npy"
