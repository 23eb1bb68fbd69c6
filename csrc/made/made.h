// What the MADE flow's three functions share: the masked weights, their panels and the one matrix product.
//
// Hidden units are sorted by degree, so the live inputs of every row of every weight matrix are a prefix, and no prefix
// is shorter than the one before. A product runs over panels of 32 outputs (or inputs, going backward), copied to
// [terms][32] with zeros where the mask forbids: vector lanes are outputs, and every output sums its terms one by one
// in rising order. (made_inverse.cpp sums the dense part of the second layer in another order, as fixed.) So a sample's
// result does not depend on the samples beside it.
#pragma once
#include "core/parallel.h"
#include "core/simd.h"
#include "core/transpose.h"

namespace vlae::VLAE_ISA::made {

constexpr Index panel_width = 32;
constexpr int panel_vectors = panel_width / lanes;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int accumulators = 24;  // of 32 registers
#else
constexpr int accumulators = 12;  // of 16
#endif
constexpr int tile_rows = accumulators < panel_vectors ? 1 : accumulators / panel_vectors;

constexpr Index chunk_size = 256;  // samples that share a packed panel and stay in cache
constexpr Index grain = 16;        // fewer samples are not worth a thread of their own, which packs for itself

inline Index min(Index a, Index b) { return a < b ? a : b; }
inline Index padded(Index n) { return (n + panel_width - 1) / panel_width * panel_width; }
inline V relu(V x) { return x < 0.0f ? V{} : x; }  // keeps NaN

// weight[rows, columns]: row r is live in its first prefix[r] columns. prefix does not fall.
struct MaskedMatrix {
  const float* weight;
  Index rows, columns;
  const Index* prefix;
};

// The three masks in terms of prefixes.
class Prefixes {
 public:
  explicit Prefixes(const MADEFlow&, const Index* degrees);
  const Index* inputs;  // [M] inputs that a unit of the first layer sees
  const Index* units;   // [M] units that a unit of the second layer sees
  const Index* below;   // [D + 1] units of degree < j: those that output j sees

 private:
  Array<Index> memory_;
};

// The weights of flow step t; scale and scale_bias are for with_scale alone.
struct Step {
  bool with_scale;
  MaskedMatrix layer1, layer2, mean, scale;
  const float *bias1, *bias2, *mean_bias, *scale_bias;
};
Step step_at(const MADEFlow&, const MADEFlowParams&, const Prefixes&, Index t);

// panel[p - begin][r] = weight[row + r][p] for p in begin..end, 0 where forbidden or outside.
void pack_transposed(const MaskedMatrix&, Index row, Index begin, Index end, float* panel);
// panel[p - begin][c] = weight[p][column + c] for p in begin..end, 0 where forbidden or outside.
void pack_rows(const MaskedMatrix&, Index column, Index begin, Index end, float* panel);

// to[0..32) = from[0..count), then zeros
inline void copy_padded(const float* from, Index count, float* to) {
  for (Index i = 0; i < panel_width; ++i) to[i] = i < count ? from[i] : 0.0f;
}

inline void copy_rows(Index rows, Index columns, const float* from, Index from_row, float* to, Index to_row) {
  for (Index r = 0; r < rows; ++r)
    for (Index c = 0; c < columns; ++c) to[r * to_row + c] = from[r * from_row + c];
}

// out[r][0..32) += sum over p of a[r * a_row + p * a_term] * panel[p][0..32)
template <int R>
[[gnu::noinline]] void multiply_tile(const float* a, Index a_row, Index a_term, const float* panel, Index terms,
                                     float* out, Index out_row) {
  V sum[R][panel_vectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < panel_vectors; ++v) sum[r][v] = load(out + r * out_row + v * lanes);
  for (Index p = 0; p < terms; ++p, a += a_term, panel += panel_width)
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < panel_vectors; ++v) sum[r][v] = fma(a + r * a_row, load(panel + v * lanes), sum[r][v]);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < panel_vectors; ++v) store(out + r * out_row + v * lanes, sum[r][v]);
}

template <int R = tile_rows>
inline void multiply(Index rows, const float* a, Index a_row, Index a_term, const float* panel, Index terms, float* out,
                     Index out_row) {
  for (; rows >= R; rows -= R, a += R * a_row, out += R * out_row)
    multiply_tile<R>(a, a_row, a_term, panel, terms, out, out_row);
  if constexpr (R > 1)
    if (rows) multiply<R / 2>(rows, a, a_row, a_term, panel, terms, out, out_row);
}

// What one flow step makes of N samples: rows are padded, [N, padded(D)] and [N, padded(M)].
struct Activations {
  float* y;
  float *hidden1, *hidden2;
  float* mean;
  float* shrink;   // exp(-scale), unused in the mean-only form
  float* next;     // the step's result, reversed
  float* log_det;  // [N], added to
};
// hidden_context points at the first sample's row of this step, or is null; its rows lie context_row apart.
// panel: scratch of panel_width * max(D, M).
void run_step(const Step&, Index N, const float* hidden_context, Index context_row, const Activations&, float* panel);

}  // namespace vlae::VLAE_ISA::made
