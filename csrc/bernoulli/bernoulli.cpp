// The log-likelihood of independent pixels as an operator: the same bits on every processor, as torch's softplus is
// not.
#include "core/simd.h"

namespace vlae::VLAE_ISA {

void bernoulli_log_prob(Index n, const float* x, const float* logits, float* y) {
  for_vectors(n, [=](auto get, auto put) {
    const V logit = get(logits);
    put(y, fma(get(x), logit, -softplus(logit)));
  });
}

void bernoulli_log_prob_backward(Index n, const float* dy, const float* x, const float* logits, float* dx,
                                 float* dlogits) {
  for_vectors(n, [=](auto get, auto put) {
    const V d = get(dy), logit = get(logits);
    put(dx, d * logit);
    put(dlogits, d * (get(x) - sigmoid(logit)));
  });
}

}  // namespace vlae::VLAE_ISA
