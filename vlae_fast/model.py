"""The Variational Lossy Autoencoder (Chen et al., ICLR 2017, arXiv:1611.02731) on one page.

::

    x --encoder--> q(z|x) --> z --flow, one pass a step--> eps --N(0, 1)--> log p(z)          scoring
                              +---decoder--> context ---+
    x --------------------------------------------------+-PixelCNN--> log p(x|z)

    eps ~ N(0, 1) --flow, D dependent steps--> z --decoder--> context --PixelCNN, pixel after pixel--> x    drawing
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vlae_fast import noise, ops, pretrained
from vlae_fast.bound import Bound, folded_sum, normal_log_prob
from vlae_fast.checks import function, instance, path, real, whole
from vlae_fast.config import VLAEConfig
from vlae_fast.distributions import FlowPosterior, FlowPrior
from vlae_fast.inpainting import DECISIONS, START_ROUNDS, Noises, State, metropolis
from vlae_fast.inputs import check_codes, check_given, check_has_values, check_images, check_parameter, check_result
from vlae_fast.layers import MADEFlow, PixelCNN, Weights, compute_pruned, initialization
from vlae_fast.networks import Decoder, Encoder, images_at_once
from vlae_fast.portable import log_mean_exp
from vlae_fast.report import Report, silent

__all__ = ["VLAE", "Bound"]


class VLAE(nn.Module):
    """The model; its variants are fields of the config. Images are float32 tensors [N, 1, H, W] of 0 and 1 (ink)."""

    def __init__(self, config: VLAEConfig) -> None:
        super().__init__()
        self.config = instance("config", config, VLAEConfig)
        """Which variant this is."""
        self.chunk = images_at_once(config)
        """Images drawn, or codes scored, at once."""
        c = config
        latent = c.conditioning == "latent"
        self.encoder = Encoder(c) if latent else None
        """Moments of q(z|x); None without a latent code. One of your own takes what `Encoder.forward` takes."""
        self.decoder = Decoder(c) if latent else None
        """From z to context maps; None without a latent code. One of your own takes what `Decoder.forward` takes."""
        self.prior_flow, self.posterior_flow = (
            MADEFlow(c.latent_size, c.flow_hidden, c.flow_steps, c.flow_scale)
            if latent and kind in ("af", "iaf")
            else None
            for kind in (c.prior, c.posterior)
        )
        self.context_map = None
        """Learned context [K, H, W] where conditioning is "map"."""
        if c.conditioning == "map":
            self.context_map = nn.Parameter(torch.zeros(c.context_maps, c.height, c.width))
        self.pixelcnn = None
        """p(x|z); None for a factorized decoder."""
        if c.decoder == "pixelcnn":
            maps = 0 if c.conditioning == "none" else c.context_maps
            self.pixelcnn = PixelCNN(c.pixelcnn_channels, maps, c.pixelcnn_layers, c.pointwise_blocks, c.tied, c.wiring)

    @property
    def prior(self) -> Distribution:
        """p(z): a distribution with event shape [D]. Raises ValueError where the model has no latent code."""
        self._encoder()
        nothing = self._like().new_zeros(self.config.latent_size)
        base = Independent(Normal(nothing, nothing + 1), 1)
        return base if self.prior_flow is None else FlowPrior(base, self.prior_flow)

    # --- scoring ------------------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> Distribution:
        """q(z|x) of images [N, 1, H, W]: a distribution over z with batch shape [N] and event shape [D].

        Raises ValueError where the model has no latent code.
        """
        mean, log_std, context = self._encoder()(self._checked(images))
        check_result(mean, log_std)
        base = Independent(Normal(mean, ops.exp(log_std)), 1)
        return base if self.posterior_flow is None else FlowPosterior(base, self.posterior_flow, context)

    __call__: Callable[..., Bound]  # of any nn.Module it is Any

    def forward(self, images: Tensor, *, noise: Tensor | None = None) -> Bound:
        """The same as `elbo`."""
        return self.elbo(images, noise=noise)

    def elbo(self, images: Tensor, *, noise: Tensor | None = None) -> Bound:
        """The variational bound of binary images [N, 1, H, W], one sample of z each.

        noise [N, D] standard normal; drawn by torch if None. Without a code the KL is 0 and the bound exact.
        """
        images = self._checked(images)
        if noise is not None:
            check_codes("noise", noise, images.shape[0], images, self.config)
        if self.encoder is None:
            nothing = images.new_zeros(images.shape[0], 1)
            return Bound(self._log_prob_given(images, None), nothing[:, 0], nothing)
        moments = self.encoder(images)
        if noise is None:
            noise = torch.randn_like(moments[0], dtype=images.dtype)  # autocast makes the moments less precise
        return self._bound(images, moments, noise)

    def _bound(self, images: Tensor, moments: Sequence[Any], noise: Tensor) -> Bound:
        """`moments` as the encoder gives them."""
        mean, log_std, context = moments
        z = mean + ops.exp(log_std) * noise
        log_q = normal_log_prob(noise) - log_std
        if self.posterior_flow is not None:
            z, log_det = self.posterior_flow(z, context)
            log_q = log_q - log_det[:, None] / z.shape[1]
        eps, log_p = z, 0.0
        if self.prior_flow is not None:
            eps, log_det = self.prior_flow(z)
            log_p = log_det[:, None] / z.shape[1]
        kl_dimensions = log_q - log_p - normal_log_prob(eps)
        return Bound(self._log_prob_given(images, z), folded_sum(kl_dimensions), kl_dimensions)

    def _log_prob_given(self, images: Tensor, z: Tensor | None) -> Tensor:
        """log p(x|z), [N] nats."""
        context = self._context(z, images.shape[0])
        if self.pixelcnn is None:
            assert context is not None
            return folded_sum(ops.bernoulli_log_prob(images, context).flatten(1))
        log_prob: Tensor = self.pixelcnn(images, context)
        return log_prob

    def _context(self, z: Tensor | None, n: int, weights: Weights | None = None) -> Tensor | None:
        """Context maps [n, K, H, W] of the PixelCNN, or logits [n, 1, H, W] of a factorized decoder."""
        if self.decoder is not None:
            maps: Tensor = self.decoder(z, weights)
            return maps
        compute_pruned(self)
        return None if self.context_map is None else self.context_map.expand(n, -1, -1, -1)

    @torch.no_grad()
    def sampled_bounds(
        self, images: Tensor, samples: int, *, seed: int = 0, first: int = 0, report: Report = silent
    ) -> tuple[Tensor, Tensor]:
        """log p(x|z) and log q(z|x) - log p(z) for `samples` codes z from q(z|x) of each image: float64 [N, samples].

        In nats; their difference is the logarithm of an importance weight. The noise of code k of image i depends on
        (seed, first + i, k) alone. Without gradients: `elbo` of repeated images has those of more samples.
        """
        images = self._checked(images)
        samples, seed, first = whole("samples", samples, 1, 2**31), whole("seed", seed), whole("first", first)
        function("report", report)
        if self.encoder is None:  # exact: every sample is the same
            exact = self._log_prob_given(images, None).double()[:, None].expand(-1, samples)
            check_result(exact)
            report(len(images), len(images))
            return exact, torch.zeros_like(exact)
        D = self.config.latent_size
        reconstruction, kl = (images.new_empty(len(images), samples, dtype=torch.float64) for _ in range(2))
        group = max(1, self.chunk // samples)  # images scored together
        for i in range(0, len(images), group):
            part = images[i : i + group]
            mean, log_std, context = self.encoder(part)
            for start in range(0, samples, self.chunk):
                count = min(self.chunk, samples - start)
                eps, _ = noise.normals_and_uniforms(
                    seed, noise.POSTERIOR, first + i, len(part), count * D, start=start * D
                )
                moments = [t if t is None else t.repeat_interleave(count, 0) for t in (mean, log_std, context)]
                bound = self._bound(part.repeat_interleave(count, 0), moments, eps.view(-1, D).to(images))
                reconstruction[i : i + group, start : start + count] = bound.reconstruction.view(len(part), count)
                kl[i : i + group, start : start + count] = bound.kl.view(len(part), count)
            report(i + len(part), len(images))
        check_result(reconstruction, kl)
        return reconstruction, kl

    def log_likelihood(
        self, images: Tensor, *, samples: int = 4096, seed: int = 0, first: int = 0, report: Report = silent
    ) -> Tensor:
        """Importance-sampled log p(x) of binary images, float64 [N] nats (Burda et al. 2016, arXiv:1509.00519, eq. 8).

        `sampled_bounds` says what the noise depends on. With a bar, where there are many images::

            with tqdm(total=len(images)) as bar:
                model.log_likelihood(images, report=lambda done, total: bar.update(done - bar.n))
        """
        reconstruction, kl = self.sampled_bounds(images, samples, seed=seed, first=first, report=report)
        return log_mean_exp(reconstruction - kl)

    # --- drawing ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        first: int = 0,
        temperature: float = 1.0,
        given: Tensor | None = None,
        report: Report = silent,
    ) -> Tensor:
        """n images [n, 1, H, W] from the model: z from the prior, then pixel after pixel.

        Image i depends on (seed, first + i) alone. temperature divides the logits of the pixels; given [n, H, W] int8
        keeps pixels that are 0 or 1 in it and draws those that are -1. Neither z nor the pixels drawn before a kept one
        know of it: `inpaint` draws what goes with the pixels that are kept. `report` as in `log_likelihood`.
        """
        return self._drawn(n, None, seed, first, temperature, given, report)

    def _drawn(
        self,
        n: int,
        z: Tensor | None,
        seed: int,
        first: int,
        temperature: float,
        given: Tensor | None,
        report: Report = silent,
    ) -> Tensor:
        """`sample`, or `decode` where there is a z."""
        n, first, temperature = whole("n", n), whole("first", first), real("temperature", temperature, positive=True)
        function("report", report)
        if given is not None:
            check_given(given, n, self._like(), self.config)
        D = 0 if self.encoder is None else self.config.latent_size
        images = []
        for start in range(0, n, self.chunk):
            count = min(self.chunk, n - start)
            eps, uniforms, _ = self._noise(seed, noise.SAMPLE, first + start, count, D)
            code = self._code_of_prior(eps) if z is None else z[start : start + count]
            kept = None if given is None else given[start : start + count]
            images.append(self._draw(self._context(code, count), uniforms, temperature, kept))
            report(start + count, n)
        return torch.cat(images) if images else self._like().new_empty(0, 1, self.config.height, self.config.width)

    @torch.no_grad()
    def decode(
        self, z: Tensor, *, seed: int = 0, first: int = 0, temperature: float = 1.0, given: Tensor | None = None
    ) -> Tensor:
        """Images [N, 1, H, W] from p(x|z) for codes z [N, D]: of `prior`, of `encode`, or mixtures of them.

        ::

            a, b = model.encode(images[:2]).sample()
            path = torch.stack([model.decode(torch.lerp(a, b, t)[None])[0] for t in torch.linspace(0, 1, 9)])

        One at a time, as here, they share their noise; that of image i depends on (seed, first + i) alone, and for the
        codes that `sample` draws it is that of `sample`. The rest as there. Raises ValueError without a latent code.
        """
        self._encoder()
        check_codes("z", z, None, self._like(), self.config)
        return self._drawn(len(z), z, seed, first, temperature, given)

    @torch.no_grad()
    def reconstruct(
        self, images: Tensor, *, seed: int = 0, first: int = 0, temperature: float = 1.0, given: Tensor | None = None
    ) -> Tensor:
        """Lossy decompressions [N, 1, H, W] (the paper's figure 1): z from q(z|x), then x' from p(x|z).

        Image i depends on (seed, first + i) alone; `temperature` and `given` as in `sample`. Again and again with
        `given`, this fills in pixels that look right, but not with the probabilities of the model: `inpaint` does.
        """
        images, first = self._checked(images), whole("first", first)
        temperature = real("temperature", temperature, positive=True)
        if given is not None:
            check_given(given, len(images), images, self.config)
        parts = []
        for start in range(0, len(images), self.chunk):
            part = images[start : start + self.chunk]
            moments = self._encoder()(part)
            normals, uniforms, _ = self._noise(
                seed, noise.RECONSTRUCTION, first + start, len(part), moments[0].shape[1]
            )
            context = self._context(self._code(moments, normals), len(part))
            kept = None if given is None else given[start : start + len(part)]
            parts.append(self._draw(context, uniforms, temperature, kept))
        return torch.cat(parts) if parts else torch.empty_like(images)

    @torch.no_grad()
    def inpaint(self, given: Tensor, *, rounds: int = 100, seed: int = 0, first: int = 0) -> Tensor:
        """Images [N, 1, H, W] from p(missing pixels | kept pixels); given [N, H, W] int8 keeps 0 and 1, -1 is missing.

        Each image ends a Markov chain that comes nearer to it with every round (`inpainting`); with 0 rounds it is what
        `reconstruct` leads to, again and again. Image i depends on (seed, first + i) and rounds alone.
        """
        rounds, first = whole("rounds", rounds), whole("first", first)
        check_given(given, None, self._like(), self.config)
        n, D = len(given), 0 if self.encoder is None else self.config.latent_size
        if n > self.chunk:
            parts = zip(range(first, first + n, self.chunk), given.split(self.chunk), strict=True)
            return torch.cat([self.inpaint(part, rounds=rounds, seed=seed, first=i) for i, part in parts])

        def noises(number: int) -> Noises:
            return Noises(*self._noise(seed, noise.INPAINTING, first, n, D, DECISIONS, number))

        eps, uniforms, _ = noises(0)
        if self.encoder is not None:
            images = self.sample(n, seed=seed, first=first, given=given)
            for number in range(START_ROUNDS):
                eps, uniforms, _ = noises(number)
                z = self._code(self.encoder(images), eps)
                images = self._draw(self._context(z, n), uniforms, 1.0, given)
            eps = z if self.prior_flow is None else self.prior_flow(z)[0]
        state = self._proposed(eps, uniforms, given)
        return metropolis(state, given, map(noises, range(START_ROUNDS, START_ROUNDS + rounds)), self._proposed).images

    def _proposed(self, eps: Tensor, uniforms: Tensor, given: Tensor) -> State:
        """The image of this noise, and how likely each of its pixels is."""
        context = self._context(self._code_of_prior(eps), len(eps))
        images = self._draw(context, uniforms, 1.0, given)
        logits = context if self.pixelcnn is None else self.pixelcnn.logits(images, context)
        assert logits is not None
        return State(eps, images, ops.bernoulli_log_prob(images, logits)[:, 0])

    def _code_of_prior(self, eps: Tensor) -> Tensor:
        """z of the prior's noise."""
        return eps if self.prior_flow is None else self.prior_flow.inverse(eps)

    def _code(self, moments: Sequence[Any], normals: Tensor) -> Tensor:
        """z of the posterior's noise; `moments` as the encoder gives them."""
        mean, log_std, context = moments
        z: Tensor = mean + ops.exp(log_std) * normals
        return z if self.posterior_flow is None else self.posterior_flow(z, context)[0]

    def _draw(self, context: Tensor | None, uniforms: Tensor, temperature: float, given: Tensor | None) -> Tensor:
        """Images from p(x|z)."""
        if self.pixelcnn is not None:
            return self.pixelcnn.sample(context, uniforms, temperature, given)
        assert context is not None
        chances = ops.exp(ops.bernoulli_log_prob(torch.ones_like(context), context / temperature))
        drawn = (uniforms[:, None] < chances).to(uniforms.dtype)
        return drawn if given is None else torch.where(given[:, None] < 0, drawn, given[:, None].to(drawn.dtype))

    def _noise(
        self, seed: int, stream: int, first: int, n: int, normals: int, decisions: int = 0, number: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Standard normals [n, normals], uniforms [n, H, W] and [n, decisions] ; the numberth such."""
        like, pixels = self._like(), (self.config.height, self.config.width)
        size = normals, math.prod(pixels) + decisions
        eps, uniforms = noise.normals_and_uniforms(seed, stream, first, n, *size, start=number * sum(size))
        ours, others = uniforms.to(like).tensor_split([size[1] - decisions], 1)
        return eps.to(like), ours.view(n, *pixels), others

    # --- the rest -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def initialize(self, images: Tensor) -> None:
        """Data-dependent initialisation of every gain and bias from a batch of images (Salimans & Kingma 2016).

        Raises ValueError for an empty batch.
        """
        images = self._checked(images)
        if len(images) == 0:
            raise ValueError(f"images: one or more wanted, got shape {list(images.shape)}")
        with initialization(self):
            z = None
            if self.encoder is not None:
                moments = self.encoder(images)
                z = self._code(moments, torch.randn_like(moments[0]))
                if self.prior_flow is not None:
                    self.prior_flow(z)
            context = self._context(z, images.shape[0])
            if self.pixelcnn is not None:
                self.pixelcnn.logits(images, context)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` (float32).

        Raises CheckpointError, nothing written, where a parameter holds NaN or infinity (it is named), or where the
        folder holds a training or cannot be written; ValueError where `from_pretrained` would not read it, as a part is
        not what the config tells: an encoder of your own, parametrized or pruned weights.
        """
        check_has_values(next(self.parameters()))
        pretrained.save(path("folder", folder), self)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | Path) -> "VLAE":
        """A model from shipped weights, or a folder that `save_pretrained` or a training wrote; no code is executed.

        It is float32, on torch's default device; torch's random state stays as it is. A folder goes before shipped
        weights of its name. Raises CheckpointError (a ValueError) that names the file at fault.
        """
        return pretrained.load(cls, name_or_folder)

    def _like(self) -> Tensor:
        """A tensor of the model's device and dtype, once these are known to be such that the model can run."""
        like = next(self.parameters())
        check_parameter(like)
        return like

    def _encoder(self) -> Encoder:
        if self.encoder is None:
            raise ValueError(f"conditioning: this model has no latent code (it is {self.config.conditioning!r})")
        return self.encoder

    def _checked(self, images: Tensor) -> Tensor:
        check_images(images, self._like(), self.config)
        return images
