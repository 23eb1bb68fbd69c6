"""One HTML file in which people play with a lossy code: the model, and csrc as WebAssembly, in any browser.

It needs no server and no network, and says so to the browser (its content security policy). What it draws is, bit for
bit, what the model draws here within `native.plain_arithmetic()`.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlae_fast import codec, latent
from vlae_fast.checks import text
from vlae_fast.codec.exact import GRID, Exact
from vlae_fast.explore.model import packed, rounded
from vlae_fast.inputs import check_images
from vlae_fast.model import VLAE

__all__ = ["page", "rounded"]

_FOLDER = Path(__file__).parent
MOST_SIDE = 256
"""Largest side of an image, pixels."""
MOST_BYTES = 1 << 26
"""Largest row of weights."""
MOST_AXES = 8
SAMPLES = 1024
"""The model's own, of whose codes the axes are."""
MOST_CODES = 16
"""log2 of the codes that a page lists; the more, the better it compresses ..."""
MOST_NUMBERS = 24
"""... and log2 of the numbers that these are."""


def page(model: VLAE, *, name: str = "model", trained_on: str = "", images: Tensor | None = None) -> bytes:
    """The file, UTF-8, of a model with a code that `codec.compress` takes, its weights `rounded` to half precision.

    The sliders go along principal axes of the codes of at least two images [N, 1, H, W], by default samples of the
    model itself. Raises TypeError or ValueError for other models and images, for those too large for a page (256 pixels
    a side, 64 MiB), and for what is no text.
    """
    name, trained_on = text("name", name), text("trained_on", trained_on)
    D = Exact(model).D
    if D == 0:
        raise ValueError(f"model: one with a latent code wanted, got {model.config.conditioning!r}")
    c = model.config
    if max(c.height, c.width) > MOST_SIDE:
        raise ValueError(f"model: images of at most {MOST_SIDE} pixels a side wanted, got {c.height}x{c.width}")
    if images is not None:
        check_images(images, next(model.parameters()), c)
        if len(images) < 2:
            raise ValueError(
                f"images: at least 2 wanted, for the axes along which their codes differ, got {len(images)}"
            )
    model = rounded(model)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    if 2 * numbers > MOST_BYTES:
        raise ValueError(f"model: at most {MOST_BYTES >> 20} MiB of weights wanted for a page, got {numbers:,} weights")
    facts = {
        "name": name,
        "trainedOn": trained_on,
        "height": c.height,
        "width": c.width,
        "latent": D,
        "contextMaps": c.context_maps,
        "weights": numbers,
        "grid": GRID,
        "mostCodes": 1 << min(MOST_CODES, MOST_NUMBERS - (D - 1).bit_length()),
        "digest": codec.digest(model).hex(),
        **_axes(model, images),
    }
    style, script = _text("page.css"), _text("page.js") + _text("controls.js")
    return _filled(
        _text("page.html"),
        title=html.escape(name),
        policy=f"default-src 'none'; script-src 'wasm-unsafe-eval' {_hash(script)}; worker-src blob:; "
        f"style-src {_hash(style)}; base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        worker=_text("worker.js"),
        facts=json.dumps(facts).replace("<", "\\u003c"),
        module=base64.b64encode((_FOLDER / "vlae.wasm").read_bytes()).decode(),
        weights=base64.b64encode(packed(model)).decode(),
    ).encode()


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names a script or style that may stand in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _filled(template: str, **parts: str) -> str:
    """Each {{name}} in one pass: what is filled in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _axes(model: VLAE, images: Tensor | None) -> dict[str, Any]:
    """Principal axes [A, D] of the aggregated posterior, their standard deviations, and the share of the variance."""
    with Exact(model).arithmetic():
        if images is None:
            images = model.sample(SAMPLES)
        moments = latent.moments(model, images)
    assert moments is not None
    mean, std = (t.double() for t in moments)
    covariance = torch.cov(mean.T).view(mean.shape[1], -1) + torch.diag((std**2).mean(0))
    variances, axes = (t.flip(-1)[..., :MOST_AXES] for t in torch.linalg.eigh(covariance))
    axes = axes.T * axes.T.gather(1, axes.T.abs().argmax(1, keepdim=True)).sign()  # of two directions the same one
    return {
        "axes": [[round(x, 6) for x in axis] for axis in axes.tolist()],
        "spreads": variances.clamp(min=0).sqrt().tolist(),
        "shares": (variances / covariance.trace()).tolist(),
    }
