// exp as an operator: the same bits on every processor, as torch's own are not.
#include "core/simd.h"

namespace vlae::VLAE_ISA {

void exponential(Index n, const float* x, float* y) {
  for_vectors(n, [=](auto get, auto put) { put(y, exp(get(x))); });
}

}  // namespace vlae::VLAE_ISA
