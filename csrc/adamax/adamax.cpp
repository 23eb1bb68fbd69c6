// A step of Adamax and of the average of the weights: each number is read and written once.
#include "core/parallel.h"
#include "core/simd.h"

namespace vlae::VLAE_ISA {

namespace {

struct Numbers {
  V weight, exp_avg, exp_inf, average;
};

inline V larger(V a, V b) { return a > b ? a : b; }

inline Numbers step(const AdamaxStep& s, V grad, Numbers x) {
  x.exp_avg = fma(broadcast(1.0f - s.beta1), grad - x.exp_avg, x.exp_avg);
  x.exp_inf = larger(s.beta2 * x.exp_inf, (grad < 0.0f ? -grad : grad) + s.epsilon);
  x.weight -= s.step_size * (x.exp_avg / x.exp_inf);
  x.average = fma(broadcast(1.0f - s.keep), x.weight - x.average, x.average);
  return x;
}

}  // namespace

void adamax(Index n, const AdamaxStep& s, const float* grad, Index n_threads, float* weight, float* exp_avg,
            float* exp_inf, float* average) {
  parallel(n_threads, n, 65536, [&](Index begin, Index end) {
    Index i = begin;
    for (; i + lanes <= end; i += lanes) {
      const Numbers x =
          step(s, load(grad + i), {load(weight + i), load(exp_avg + i), load(exp_inf + i), load(average + i)});
      store(weight + i, x.weight);
      store(exp_avg + i, x.exp_avg);
      store(exp_inf + i, x.exp_inf);
      store(average + i, x.average);
    }
    for (; i < end; ++i) {
      const Numbers x =
          step(s, broadcast(grad[i]),
               {broadcast(weight[i]), broadcast(exp_avg[i]), broadcast(exp_inf[i]), broadcast(average[i])});
      weight[i] = x.weight[0];
      exp_avg[i] = x.exp_avg[0];
      exp_inf[i] = x.exp_inf[0];
      average[i] = x.average[0];
    }
  });
}

}  // namespace vlae::VLAE_ISA
