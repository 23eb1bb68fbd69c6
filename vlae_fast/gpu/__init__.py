"""CUDA bodies of the operators: Triton kernels (kernels/) and the CUDA extension (csrc/vlae_cuda.h).

`vlae_fast.ops` registers the functions of this package under their names, with the same arguments as those of
`native.py`. No function here synchronises with the host: values on a GPU are not checked. All memory comes from
torch's caching allocator before a launch, and launches go to the current stream: CUDA graphs can capture them.
Triton's interpreter (TRITON_INTERPRET=1) runs the same functions on CPU tensors.
"""

from vlae_fast.gpu.made import (
    made_flow_forward,
    made_flow_forward_backward,
    made_flow_inverse,
    made_flow_inverse_backward,
)
from vlae_fast.gpu.masked_conv import masked_conv3x3, masked_conv3x3_backward
from vlae_fast.gpu.pixelcnn import (
    pixelcnn_log_prob,
    pixelcnn_log_prob_backward,
    pixelcnn_logits,
    pixelcnn_logits_backward,
)
from vlae_fast.gpu.pixelcnn_sample import pixelcnn_sample
from vlae_fast.gpu.weight_norm import weight_norm, weight_norm_backward

__all__ = [
    "made_flow_forward",
    "made_flow_forward_backward",
    "made_flow_inverse",
    "made_flow_inverse_backward",
    "masked_conv3x3",
    "masked_conv3x3_backward",
    "pixelcnn_log_prob",
    "pixelcnn_log_prob_backward",
    "pixelcnn_logits",
    "pixelcnn_logits_backward",
    "pixelcnn_sample",
    "weight_norm",
    "weight_norm_backward",
]
