"""What a model and a training are made of: frozen dataclasses, checked on creation, and named presets."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

try:  # flags are made from these classes where the extra `cli` is installed
    from tyro.conf import Suppress
except ModuleNotFoundError:
    Suppress = None  # type: ignore[misc]

__all__ = ["PixelCNNSpec", "TrainConfig", "VLAEConfig", "from_dict"]

T = TypeVar("T")


def _check(config: Any, name: str, condition: bool, wanted: str) -> None:
    if not condition:
        raise ValueError(f"{name}: {wanted} wanted, got {getattr(config, name)!r}")


def _check_types(config: Any) -> None:
    """Values of the declared types, as a JSON file may hold anything."""
    for name, hint in get_type_hints(type(config)).items():
        _check(config, name, _fits(getattr(config, name), hint), _WORDS.get(hint, f"a value of {hint}"))


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return isinstance(value, str) and value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(type(v) is int for v in value)
    if get_origin(hint) is UnionType:
        return any(_fits(value, choice) for choice in get_args(hint))
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text"}


@dataclass(frozen=True)
class PixelCNNSpec:
    """Wiring of a PixelCNN: how L mask-B layers and P 1x1 blocks form residual blocks."""

    residual_scale: float = 1.0
    """Factor of every residual branch."""
    block_convs: int = 1
    """Masked convolutions in a residual block: 1 or 2."""
    pointwise_after: tuple[int, ...] | None = None
    """Residual block after which each 1x1 block stands; default: block p after residual block p."""
    visible_stride: int = 1
    """Image pixels whose row or column is no multiple of it are fed to the network as 0."""

    def __post_init__(self) -> None:
        _check_types(self)

    def pointwise_positions(self, pointwise_blocks: int, layers: int) -> tuple[int, ...]:
        """`pointwise_after` with its default filled in, for P 1x1 blocks and L mask-B layers.

        Raises ValueError where the wiring does not fit these numbers.
        """
        if self.block_convs not in (1, 2) or layers % self.block_convs:
            raise ValueError(
                f"spec: block_convs 1 or 2 and a divisor of {layers} layers wanted, got {self.block_convs}"
            )
        if self.visible_stride < 1:
            raise ValueError(f"spec: visible_stride >= 1 wanted, got {self.visible_stride}")
        after = tuple(range(pointwise_blocks)) if self.pointwise_after is None else tuple(self.pointwise_after)
        blocks = layers // self.block_convs
        if len(after) != pointwise_blocks or any(not 0 <= position < blocks for position in after):
            raise ValueError(
                f"spec: pointwise_after with {pointwise_blocks} positions (one for each 1x1 block) in 0..{blocks - 1} "
                f"wanted, got {after}"
            )
        return after


@dataclass(frozen=True)
class VLAEConfig:
    """A model: the paper's appendix A by default. Raises ValueError for a field that makes no sense."""

    height: Annotated[int, Suppress] = 28
    """Rows of an image, pixels. No flag of its own: the data tell."""
    width: Annotated[int, Suppress] = 28
    """Columns of an image, pixels. No flag of its own: the data tell."""
    conditioning: Literal["latent", "map", "none"] = "latent"
    """What the decoder is conditioned on: a latent code (a VAE), a learned constant map, or nothing."""
    prior: Literal["af", "gaussian"] = "af"
    """p(z): an autoregressive flow, or a standard normal."""
    posterior: Literal["gaussian", "iaf"] = "gaussian"
    """q(z|x): a diagonal Gaussian, or an inverse autoregressive flow from one."""
    decoder: Literal["pixelcnn", "factorized"] = "pixelcnn"
    """p(x|z): a PixelCNN, or independent pixels."""
    latent_size: int = 64
    """Dimensions of z."""
    encoder_channels: tuple[int, ...] = (16, 32, 32)
    """Feature maps after each halving of the image; the decoder mirrors them."""
    dense_units: int = 450
    """Units of the dense layer between feature maps and z."""
    flow_steps: int = 4
    """MADE steps of a flow."""
    flow_hidden: int = 640
    """Hidden units of a MADE, in each of two layers."""
    flow_scale: bool = False
    """Let each step scale its variables too, not only shift them."""
    context_maps: int = 4
    """Feature maps from the decoder to the PixelCNN."""
    pixelcnn_channels: int = 12
    """Feature maps of a masked convolution."""
    pixelcnn_layers: int = 12
    """Mask-B layers, the input layer not counted; they set the window: n layers see n + 1 pixels around."""
    pointwise_blocks: int = 4
    """1x1 residual blocks."""
    tied: bool = False
    """Share one weight among the mask-B layers (gains and biases stay apart)."""
    wiring: PixelCNNSpec = PixelCNNSpec(block_convs=2)
    """How the PixelCNN's layers form residual blocks."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("height", "width", "latent_size", "dense_units", "flow_steps", "flow_hidden", "pixelcnn_channels"):
            _check(self, name, getattr(self, name) >= 1, ">= 1")
        for name in ("pixelcnn_layers", "pointwise_blocks"):
            _check(self, name, getattr(self, name) >= 0, ">= 0")
        _check(self, "context_maps", self.context_maps >= 1, ">= 1")
        channels = self.encoder_channels
        _check(self, "encoder_channels", len(channels) > 0 and min(channels) >= 1, "one or more numbers >= 1")
        if self.conditioning != "latent":
            _check(self, "decoder", self.decoder == "pixelcnn", "pixelcnn where there is no latent code")
        self.wiring.pointwise_positions(self.pointwise_blocks, self.pixelcnn_layers)

    @staticmethod
    def preset(name: str) -> "VLAEConfig":
        """A named configuration: "paper", or "tiny" for tests. Raises ValueError for another name."""
        if name not in _PRESETS:
            raise ValueError(f"preset: one of {', '.join(_PRESETS)} wanted, got {name!r}")
        return _PRESETS[name]


_PRESETS = {
    "paper": VLAEConfig(),
    "tiny": VLAEConfig(
        latent_size=8,
        encoder_channels=(4, 8),
        dense_units=16,
        flow_steps=2,
        flow_hidden=24,
        context_maps=2,
        pixelcnn_channels=4,
        pixelcnn_layers=2,
        pointwise_blocks=1,
        tied=True,
        wiring=PixelCNNSpec(),
    ),
}


@dataclass(frozen=True)
class TrainConfig:
    """A training: the paper's appendix A by default. Raises ValueError for a field that makes no sense."""

    data: str = "static-mnist"
    """static-mnist, dynamic-mnist, omniglot, caltech101, digits, or a path to .npy, .npz, idx, CSV or a folder of PNGs
    of one size, which may lie in folders in it."""
    data_dir: str = ""
    """Folder of the published files; default: $VLAE_DATA, else ./data."""
    data_order: Literal["shuffled", "file"] = "shuffled"
    """Own images without validation or test images: hold a tenth out for each, at random or from the end."""
    image_size: str = ""
    """HEIGHTxWIDTH of own images that come as rows of numbers, in pixels, like 28x28."""
    train_on: Literal["train", "train+validation"] = "train"
    """Images to learn from. With the validation images among them, the last weights count, not those best on these."""
    start_from: str = ""
    """Model to learn on from, in place of random weights: its folder, or the name of shipped weights."""
    batch_size: int = 32
    """Images of a step."""
    learning_rate: float = 0.002
    """Step size of Adamax."""
    anneal_from: float = 0.0
    """Epoch from which the step size falls, in a straight line ..."""
    anneal_to: float = 0.0
    """... to nothing at this epoch, where the training ends; 0: it stays as it is."""
    polyak: float = 0.998
    """Share of the averaged weights that each step keeps; step t at most (1 + t) / (10 + t)."""
    free_bits: Literal["hard", "soft"] = "hard"
    """hard: the KL below the free nats costs nothing; soft: the weight of the KL is steered until it meets them."""
    free_bits_nats: float = 7.84
    """KL in nats that is free: the paper's 0.01 nats a pixel of a 28x28 image."""
    free_bits_groups: Literal["all", "dimension"] = "all"
    """Count the free nats over all of z at once, or an equal share for each dimension."""
    gradient_limit: float = 100_000.0
    """Norm of the gradient above which a step is skipped; ten in a row end the training."""
    validation_images: int = 2000
    """Images of the validation split that each validation looks at, drawn at random once."""
    validation_epochs: float = 1.0
    """Epochs from one validation (metrics, sample grid, weights written) to the next."""
    checkpoint_minutes: float = 2.0
    """Minutes from one written state to the next: what a killed run can lose."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and all noise."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("learning_rate", "gradient_limit", "validation_epochs", "checkpoint_minutes"):
            _check(self, name, getattr(self, name) > 0, "> 0")
        for name in ("batch_size", "validation_images"):
            _check(self, name, getattr(self, name) >= 1, ">= 1")
        _check(self, "anneal_from", self.anneal_from >= 0, ">= 0")
        wanted = f"0, or more than anneal_from = {self.anneal_from:g}"
        _check(self, "anneal_to", self.anneal_from < self.anneal_to or self.anneal_to == self.anneal_from == 0, wanted)
        _check(self, "polyak", 0 <= self.polyak < 1, "in [0, 1)")
        _check(self, "free_bits_nats", self.free_bits_nats >= 0, ">= 0")
        _check(self, "seed", 0 <= self.seed < 2**63, "in 0..2**63-1")


def from_dict(cls: type[T], values: Any, where: str) -> T:
    """A config dataclass from what a JSON file holds; raises ValueError that names `where` and the field."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: an object wanted, got {type(values).__name__}")
    hints = get_type_hints(cls)
    unknown = set(values) - set(hints)
    if unknown:
        raise ValueError(f"{where}: unknown field {sorted(map(str, unknown))[0]!r}")
    arguments = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = from_dict(hints[name], value, f"{where}.{name}")
        arguments[name] = tuple(value) if isinstance(value, list) else value
    try:
        return cls(**arguments)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
