"""Fast autoregressive latent-variable models: the Variational Lossy Autoencoder (Chen et al. 2017) for PyTorch."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

try:
    from vlae_fast import _native as _native
except ImportError as error:
    unbuilt = "its compiled part cannot be loaded; in an unbuilt checkout, `pip install .` or go to another folder"
    raise ImportError(f"vlae_fast: {unbuilt} ({error})") from error

from vlae_fast import ops, reference
from vlae_fast.config import PixelCNNSpec, TrainConfig, VLAEConfig
from vlae_fast.model import VLAE
from vlae_fast.ops import MADESpec, use_backend
from vlae_fast.params import MADEFlowParams, MADEParams, PixelCNNParams

if TYPE_CHECKING:
    from vlae_fast import codec as codec
    from vlae_fast import data as data
    from vlae_fast import distributed as distributed
    from vlae_fast import explore as explore
    from vlae_fast import latent as latent
    from vlae_fast import plots as plots
    from vlae_fast.data import Dataset as Dataset
    from vlae_fast.data import load as load
    from vlae_fast.evaluate import evaluate as evaluate
    from vlae_fast.train import Trainer as Trainer

    accelerate: Any  # a module to be called

__version__ = version("vlae_fast")
__all__ = [
    "VLAE",
    "MADEFlowParams",
    "MADEParams",
    "MADESpec",
    "PixelCNNParams",
    "PixelCNNSpec",
    "TrainConfig",
    "VLAEConfig",
    "__version__",
    "ops",
    "reference",
    "use_backend",
]
_LATER = {"Dataset": "data", "Trainer": "train", "load": "data"}
"""What a model does without is imported when it is asked for, from this module; so are whole modules."""
_MODULES = ("accelerate", "codec", "data", "distributed", "evaluate", "explore", "latent", "plots")

if not TYPE_CHECKING:  # to which every name would be one of these

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return import_module(f"vlae_fast.{name}")
        if name in _LATER:
            return getattr(import_module(f"vlae_fast.{_LATER[name]}"), name)
        raise AttributeError(f"module 'vlae_fast' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_LATER, *_MODULES})
