"""The meaning of every op in plain torch, for any float dtype and device. Readable, differentiable, slow.

Letters are those of `vlae_fast.params`. The functions take checked arguments; `vlae_fast.ops` checks them.
"""

from vlae_fast.ops.bernoulli.reference import bernoulli_log_prob
from vlae_fast.ops.dense.reference import dense
from vlae_fast.ops.exp.reference import exp
from vlae_fast.ops.made.reference import made_flow_forward, made_flow_inverse, made_forward, made_inverse
from vlae_fast.ops.masked_conv.reference import masked_conv3x3
from vlae_fast.ops.pixelcnn.reference import pixelcnn_log_prob, pixelcnn_logits, pixelcnn_sample
from vlae_fast.ops.resnet.reference import resnet
from vlae_fast.ops.weight_norm.reference import weight_norm, weight_norms
from vlae_fast.params import MADEFlowParams, MADEParams, PixelCNNParams

__all__ = [
    "MADEFlowParams",
    "MADEParams",
    "PixelCNNParams",
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
    "weight_norm",
    "weight_norms",
]
