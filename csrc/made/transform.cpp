// Autoregressive steps by nets of any wiring, both directions in the work of one pass each.
#include "made/samples.h"

namespace vlae::VLAE_ISA {

using namespace made;

void made_transform(const MADE& s, const float* x, Index n_threads, float* y, float* log_det) {
  const Nets nets(s, n_threads);
  by_samples(n_threads, s.N, [&]<int K>(Index begin, Index end) {
    Samples<K> samples(s, nets);
    for (Index count; begin < end; begin += count) {
      count = min(end - begin, K * lanes);
      samples.run(begin, count, x, y, log_det);
    }
  });
}

}  // namespace vlae::VLAE_ISA
