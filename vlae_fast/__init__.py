"""Fast autoregressive latent-variable models: the Variational Lossy Autoencoder (Chen et al. 2017) for PyTorch."""

from importlib.metadata import version

from vlae_fast import ops, reference
from vlae_fast.config import PixelCNNSpec, TrainConfig, VLAEConfig
from vlae_fast.model import VLAE
from vlae_fast.ops import use_backend
from vlae_fast.reference import MADEFlowParams, PixelCNNParams

__version__ = version("vlae_fast")
__all__ = [
    "VLAE",
    "MADEFlowParams",
    "PixelCNNParams",
    "PixelCNNSpec",
    "TrainConfig",
    "VLAEConfig",
    "__version__",
    "ops",
    "reference",
    "use_backend",
]
