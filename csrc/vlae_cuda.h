// The whole CUDA surface on one page: what csrc/vlae.h says of the same names holds here, on device addresses.
//
// Every call enqueues on `stream` of the current device and returns; nothing waits, nothing is allocated (so a call can
// be captured in a CUDA graph). The caller brings `scratch`, of as many floats as the function of that name says, free
// once the stream has passed the call, aligned to 16 bytes. Degrees are read on the device: where they are not sorted
// in 0..D-1 results mean nothing, but no call reads or writes outside its arrays. A sample's result does not depend on
// the samples beside it; sums have a fixed order, and no atomic adds. Errors of CUDA are thrown as std::runtime_error,
// with the name of the function.
#pragma once
#include "vlae.h"

struct CUstream_st;

namespace vlae::cuda {

using Stream = CUstream_st*;

Index made_flow_forward_scratch(const MADEFlow&);
void made_flow_forward(const MADEFlow&, const MADEFlowParams&, const float* z, const float* hidden_context,
                       float* scratch, Stream stream, float* eps, float* log_det);

Index made_flow_backward_scratch(const MADEFlow&);
void made_flow_backward(const MADEFlow&, const MADEFlowParams&, const float* z, const float* hidden_context,
                        const float* deps, const float* dlog_det, float* scratch, Stream stream, float* dz,
                        float* dhidden_context, const MADEFlowGrads&);

Index made_flow_inverse_scratch(const MADEFlow&);
void made_flow_inverse(const MADEFlow&, const MADEFlowParams&, const float* eps, const float* hidden_context,
                       float* scratch, Stream stream, float* z);

// Each of them, once.
#define VLAE_CUDA_FUNCTIONS(X) X(made_flow_forward) X(made_flow_backward) X(made_flow_inverse)

}  // namespace vlae::cuda
