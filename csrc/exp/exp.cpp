// exp as an operator: the same bits on every processor, as torch's own are not.
#include "core/simd.h"

namespace vlae::VLAE_ISA {

void exponential(Index n, const float* x, float* y) {
  for (Index i = 0; i < n; i += lanes) {
    float part[lanes] = {};
    const Index count = n - i < lanes ? n - i : lanes;
    for (Index k = 0; k < count; ++k) part[k] = x[i + k];
    store(part, exp(load(part)));
    for (Index k = 0; k < count; ++k) y[i + k] = part[k];
  }
}

}  // namespace vlae::VLAE_ISA
