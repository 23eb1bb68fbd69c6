// The functions of one instruction set; compiled once for each (VLAE_ISA is its name).
#include "vlae.h"

#define VLAE_STRING_(name) #name
#define VLAE_STRING(name) VLAE_STRING_(name)

namespace vlae::VLAE_ISA {

extern const Kernels table;
const Kernels table = {
    .isa = VLAE_STRING(VLAE_ISA),
    .masked_conv3x3 = masked_conv3x3,
    .masked_conv3x3_backward = masked_conv3x3_backward,
    .pixelcnn_logits = pixelcnn_logits,
    .pixelcnn_log_prob = pixelcnn_log_prob,
    .pixelcnn_backward = pixelcnn_backward,
    .pixelcnn_sample = pixelcnn_sample,
    .made_flow_forward = made_flow_forward,
    .made_flow_backward = made_flow_backward,
    .made_flow_inverse = made_flow_inverse,
    .weight_norm = weight_norm,
    .weight_norm_backward = weight_norm_backward,
};

}  // namespace vlae::VLAE_ISA
