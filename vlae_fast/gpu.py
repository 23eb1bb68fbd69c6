"""All CUDA bodies under the ops' names: Triton kernels (kernels/) and the CUDA extension (csrc/vlae_cuda.h).

They take the same arguments as those of `native`. No function here synchronises with the host: values on a GPU are not
checked. All memory comes from torch's caching allocator before a launch, and launches go to the current stream: CUDA
graphs can capture them. Triton's interpreter (TRITON_INTERPRET=1) runs the same functions on CPU tensors.
"""

from vlae_fast.ops.bernoulli.gpu import bernoulli_log_prob, bernoulli_log_prob_backward
from vlae_fast.ops.dense.gpu import dense, dense_backward
from vlae_fast.ops.exp.gpu import exp
from vlae_fast.ops.made.gpu import (
    made_flow_forward,
    made_flow_forward_backward,
    made_flow_inverse,
    made_flow_inverse_backward,
    made_forward,
    made_forward_backward,
    made_inverse,
    made_inverse_backward,
)
from vlae_fast.ops.masked_conv.gpu import masked_conv3x3, masked_conv3x3_backward
from vlae_fast.ops.pixelcnn.gpu import (
    pixelcnn_log_prob,
    pixelcnn_log_prob_backward,
    pixelcnn_logits,
    pixelcnn_logits_backward,
    pixelcnn_sample,
)
from vlae_fast.ops.resnet.gpu import resnet, resnet_backward
from vlae_fast.ops.weight_norm.gpu import (
    weight_norm,
    weight_norm_backward,
    weight_norms,
    weight_norms_backward,
)

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_log_prob_backward",
    "dense",
    "dense_backward",
    "exp",
    "made_flow_forward",
    "made_flow_forward_backward",
    "made_flow_inverse",
    "made_flow_inverse_backward",
    "made_forward",
    "made_forward_backward",
    "made_inverse",
    "made_inverse_backward",
    "masked_conv3x3",
    "masked_conv3x3_backward",
    "pixelcnn_log_prob",
    "pixelcnn_log_prob_backward",
    "pixelcnn_logits",
    "pixelcnn_logits_backward",
    "pixelcnn_sample",
    "resnet",
    "resnet_backward",
    "weight_norm",
    "weight_norm_backward",
    "weight_norms",
    "weight_norms_backward",
]
