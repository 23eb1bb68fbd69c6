// Rows are normalised one by one: the second pass over a row finds it in the L1 cache.
#include "core/parallel.h"
#include "core/simd.h"

namespace vlae::VLAE_ISA {

namespace {

constexpr float shortest = 1e-8f;

float dot(const float* a, const float* b, Index count) {
  constexpr int unroll = 4;
  V sum[unroll] = {};
  Index i = 0;
  for (; i + unroll * lanes <= count; i += unroll * lanes)
    for (int k = 0; k < unroll; ++k) sum[k] += load(a + i + k * lanes) * load(b + i + k * lanes);
  for (; i + lanes <= count; i += lanes) sum[0] += load(a + i) * load(b + i);
  float total = sum_lanes((sum[0] + sum[1]) + (sum[2] + sum[3]));
  for (; i < count; ++i) total += a[i] * b[i];
  return total;
}

// 1 / |v|, or 0 where v counts as 0.
float inverse_norm(const float* v, Index live) {
  const float norm = __builtin_sqrtf(dot(v, v, live));
  return norm < shortest ? 0.0f : 1.0f / norm;
}

// body(r) for every row; fewer than 64 K entries are not worth a thread of their own.
template <class Body>
void for_rows(Index R, Index n, Index n_threads, Body body) {
  parallel(n_threads, R, 65536 / (n + 1) + 1, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) body(r);
  });
}

}  // namespace

void weight_norm(Index R, Index n, const float* v, const float* g, const Index* live, Index n_threads, float* w) {
  for_rows(R, n, n_threads, [=](Index r) {
    const float* const from = v + r * n;
    float* const to = w + r * n;
    const float scale = g[r] * inverse_norm(from, live[r]);
    for (Index i = 0; i < live[r]; ++i) to[i] = scale * from[i];
    for (Index i = live[r]; i < n; ++i) to[i] = 0.0f;
  });
}

void weight_norm_backward(Index R, Index n, const float* dw, const float* v, const float* g, const Index* live,
                          Index n_threads, float* dv, float* dg) {
  for_rows(R, n, n_threads, [=](Index r) {
    const float *const up = dw + r * n, *const from = v + r * n;
    float* const to = dv + r * n;
    const float inverse = inverse_norm(from, live[r]);
    const float along = inverse * dot(up, from, live[r]);
    const float scale = g[r] * inverse, shrink = scale * inverse * along;
    for (Index i = 0; i < live[r]; ++i) to[i] = scale * up[i] - shrink * from[i];
    for (Index i = live[r]; i < n; ++i) to[i] = 0.0f;
    dg[r] = along;
  });
}

}  // namespace vlae::VLAE_ISA
