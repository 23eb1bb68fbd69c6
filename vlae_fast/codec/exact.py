"""A model in arithmetic that is the same, bit for bit, on every processor, and on a lattice of codes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vlae_fast import native, noise, ops
from vlae_fast.checks import NonFiniteError, instance
from vlae_fast.codec.ans import Coders
from vlae_fast.inputs import check_parameter, check_result
from vlae_fast.layers import plain_weights
from vlae_fast.model import VLAE
from vlae_fast.ops import use_backend
from vlae_fast.ops.backend import reference_chosen
from vlae_fast.ops.made.cpu import made_flow_lattice
from vlae_fast.ops.pixelcnn.cpu import pixelcnn_code
from vlae_fast.ops.pixelcnn.wiring import wiring

__all__ = ["BOOK_BITS", "FARTHEST", "GRID", "Exact"]

GRID = 2.0**-5
"""Codes are multiples of this. A step of the prior's flow rounds to it: a variance of GRID**2 / 12 that costs less than
0.001 nats a dimension in all."""
FARTHEST = 8.0
"""Standard deviations of the prior that codes may lie away from 0."""
BOOK_BITS = 12
"""Of the numbers of the codes that a lossless coder chooses from."""
LIST_SEED = 0
"""Of the list of codes."""


class Exact:
    """What a codec asks of a model. Everything is done in `arithmetic`.

    Raises ValueError or TypeError for a model that is not on the CPU in float32, has a factorized decoder, an
    autoregressive posterior or a flow that scales: their codes have no lattice, or no pixels to draw one by one.
    """

    def __init__(self, model: VLAE) -> None:
        self.model = instance("model", model, VLAE)
        parameter = next(model.parameters())
        check_parameter(parameter)
        if parameter.device.type != "cpu":
            raise ValueError(f"model: on the CPU wanted, as GPUs round differently; got one on {parameter.device}")
        for name, value in model.named_parameters():
            if not value.isfinite().all():
                raise NonFiniteError(f"model: finite parameters wanted, {name} is not")
        self.config = c = model.config
        latent = c.conditioning == "latent"
        for field, usable, wanted in (
            ("decoder", c.decoder == "pixelcnn", "'pixelcnn'"),
            ("posterior", not latent or c.posterior == "gaussian", "'gaussian'"),
            ("flow_scale", not (latent and c.prior == "af" and c.flow_scale), "False"),
        ):
            if not usable:
                raise ValueError(f"model: {field} {wanted} wanted for a codec, got {getattr(c, field)!r}")
        self.D = c.latent_size if latent else 0
        """0: no code."""
        assert model.pixelcnn is not None
        with self.arithmetic():
            self._pixelcnn = [p.contiguous() for p in model.pixelcnn.params()]
            self._wiring = wiring(model.pixelcnn.spec, self._pixelcnn)
            self._flow = None if model.prior_flow is None else [p.contiguous() for p in model.prior_flow.params()]
            self._encoder_weights, self._decoder_weights = (
                None if network is None else plain_weights(network) for network in (model.encoder, model.decoder)
            )

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Within it this thread's bodies compute the same bits on every processor."""
        backend = use_backend("auto") if reference_chosen() else nullcontext()  # which looks at every call of torch
        with torch.no_grad(), torch.autocast("cpu", enabled=False), backend, native.plain_arithmetic():
            yield

    def moments(self, images: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Means and standard deviations [N, D] of q(z|x). Raises NonFiniteError for a model of huge weights."""
        assert self.model.encoder is not None
        parts = [self.model.encoder(part, self._encoder_weights)[:2] for part in images.split(self.model.chunk)]
        mean, log_std = (torch.cat(moments) for moments in zip(*parts, strict=True))
        check_result(mean, log_std)
        return mean.numpy(), ops.exp(log_std).numpy()

    def prior_of(self, z: NDArray[np.float32]) -> NDArray[np.float32]:
        """eps [N, D] of codes z on the lattice; NaN, or beyond FARTHEST, where a codec cannot use them."""
        return self._through(z, False)

    def code_of(self, eps: NDArray[np.float32]) -> NDArray[np.float32]:
        """The way back."""
        return self._through(eps, True)

    def _through(self, rows: NDArray[np.float32], inverse: bool) -> NDArray[np.float32]:
        if self._flow is None:
            return rows
        return made_flow_lattice(torch.from_numpy(np.ascontiguousarray(rows)), self._flow, GRID, inverse).numpy()

    def listed(self, numbers: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Codes z [N, D] of these numbers in a list of draws from the prior that every machine has, and their eps."""
        eps = [
            noise.normals_and_uniforms(LIST_SEED, noise.CODEBOOK, first, n, self.D)[0] for first, n in _runs(numbers)
        ]
        rows = np.concatenate([np.empty((0, self.D), np.float32), *eps])
        rows = np.rint(rows / np.float32(GRID)) * np.float32(GRID)
        return self.code_of(rows), rows

    @cached_property
    def book(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The first 2**BOOK_BITS listed codes and their eps."""
        return self.listed(np.arange(1 << BOOK_BITS))

    def context(self, z: NDArray[np.float32] | None, n: int) -> Tensor:
        """What the PixelCNN is told of n images, [n, K, H, W]. Raises NonFiniteError for a model of huge weights."""
        context = self.model._context(None if z is None else torch.from_numpy(z), n, self._decoder_weights)
        if context is None:
            context = next(self.model.parameters()).new_empty(n, 0, self.config.height, self.config.width)
        check_result(context)
        return context.contiguous()

    def push_pixels(self, coders: Coders, images: Tensor, context: Tensor) -> None:
        """Images [N, 1, H, W], one on every lane."""
        pixelcnn_code(images, context, self._pixelcnn, self._wiring, coders.arguments(), False)

    def pop_pixels(self, coders: Coders, context: Tensor) -> Tensor:
        """The images on top."""
        images = context.new_empty(len(coders), 1, *context.shape[2:])
        pixelcnn_code(images, context, self._pixelcnn, self._wiring, coders.arguments(), True)
        return images


def _runs(numbers: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Numbers as runs of neighbours: the first, how many."""
    ends = np.flatnonzero(np.diff(numbers.astype(np.int64)) != 1) + 1
    for run in np.split(numbers, ends):
        if len(run):
            yield int(run[0]), len(run)
