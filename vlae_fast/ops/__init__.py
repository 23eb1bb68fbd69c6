"""One public function an op. It checks its arguments, then calls the registered torch operator `vlae_fast::<op>`.

What each op means stands in `vlae_fast.reference`, under the same name.
"""

from vlae_fast.ops.backend import use_backend
from vlae_fast.ops.bernoulli import bernoulli_log_prob
from vlae_fast.ops.dense import dense
from vlae_fast.ops.exp import exp
from vlae_fast.ops.made import made_flow_forward, made_flow_inverse
from vlae_fast.ops.made.spec import MADELayer, MADESpec
from vlae_fast.ops.made.transform import made_forward, made_inverse
from vlae_fast.ops.masked_conv import masked_conv3x3
from vlae_fast.ops.pixelcnn import pixelcnn_log_prob, pixelcnn_logits, pixelcnn_sample
from vlae_fast.ops.resnet import resnet
from vlae_fast.ops.weight_norm import weight_norm, weight_norms

__all__ = [
    "MADELayer",
    "MADESpec",
    "bernoulli_log_prob",
    "dense",
    "exp",
    "made_flow_forward",
    "made_flow_inverse",
    "made_forward",
    "made_inverse",
    "masked_conv3x3",
    "pixelcnn_log_prob",
    "pixelcnn_logits",
    "pixelcnn_sample",
    "resnet",
    "use_backend",
    "weight_norm",
    "weight_norms",
]
