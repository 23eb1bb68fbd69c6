// Rows are normalised one by one: the second pass over a row finds it in the L1 cache.
#include "core/parallel.h"
#include "core/simd.h"

namespace vlae::VLAE_ISA {

namespace {

constexpr float shortest = 1e-8f;

float dot(const float* a, const float* b, Index count) {
  constexpr int unroll = 4;
  Wide sums[unroll] = {};
  Index i = 0;
  for (; i + 16 * unroll <= count; i += 16 * unroll)
#pragma GCC unroll 4
    for (int k = 0; k < unroll; ++k) sums[k] = fma(load_wide(a + i + 16 * k), load_wide(b + i + 16 * k), sums[k]);
  for (; i + 16 <= count; i += 16) sums[0] = fma(load_wide(a + i), load_wide(b + i), sums[0]);
  float total = sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
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
    const Index count = live ? live[r] : n;
    const float* const from = v + r * n;
    float* const to = w + r * n;
    const float scale = g[r] * inverse_norm(from, count);
    for (Index i = 0; i < count; ++i) to[i] = scale * from[i];
    for (Index i = count; i < n; ++i) to[i] = 0.0f;
  });
}

void weight_norm_backward(Index R, Index n, const float* dw, const float* v, const float* g, const Index* live,
                          Index n_threads, float* dv, float* dg) {
  for_rows(R, n, n_threads, [=](Index r) {
    const Index count = live ? live[r] : n;
    const float *const up = dw + r * n, *const from = v + r * n;
    float* const to = dv + r * n;
    const float inverse = inverse_norm(from, count);
    const float along = inverse * dot(up, from, count);
    const float scale = g[r] * inverse, shrink = scale * inverse * along;
    for (Index i = 0; i < count; ++i) to[i] = scale * up[i] - shrink * from[i];
    for (Index i = count; i < n; ++i) to[i] = 0.0f;
    dg[r] = along;
  });
}

}  // namespace vlae::VLAE_ISA
