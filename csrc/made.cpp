// The masks of a MADE as prefixes, and the panels that every product of made.h runs over.
#include "made.h"

namespace vlae::VLAE_ISA {

Prefixes::Prefixes(const MADEFlow& s, const Index* degrees)
    : memory_((2 * s.M + s.D + 1) * Index(sizeof(Index) / sizeof(float))) {
  Index* seen_inputs = reinterpret_cast<Index*>(memory_.data());
  Index* seen_units = seen_inputs + s.M;
  Index* start = seen_units + s.M;
  for (Index j = 0, unit = 0; j <= s.D; ++j) {
    while (unit < s.M && degrees[unit] < j) ++unit;
    start[j] = unit;
  }
  for (Index unit = 0; unit < s.M; ++unit) {
    seen_inputs[unit] = degrees[unit] + 1;
    seen_units[unit] = start[degrees[unit] + 1];
  }
  inputs = seen_inputs;
  units = seen_units;
  below = start;
}

Step step_at(const MADEFlow& s, const MADEFlowParams& p, const Prefixes& prefixes, Index t) {
  const Index outputs = s.scale ? 2 * s.D : s.D;
  const float* weight3 = p.weight3 + t * outputs * s.M;
  const float* bias3 = p.bias3 + t * outputs;
  return {
      .with_scale = s.scale,
      .layer1 = {p.weight1 + t * s.M * s.D, s.M, s.D, prefixes.inputs},
      .layer2 = {p.weight2 + t * s.M * s.M, s.M, s.M, prefixes.units},
      .mean = {weight3, s.D, s.M, prefixes.below},
      .scale = {weight3 + s.D * s.M, s.D, s.M, prefixes.below},
      .bias1 = p.bias1 + t * s.M,
      .bias2 = p.bias2 + t * s.M,
      .mean_bias = bias3,
      .scale_bias = bias3 + s.D,
  };
}

void pack_transposed(const MaskedMatrix& m, Index row, Index begin, Index end, float* panel) {
  for (Index r = 0; r < panel_width; ++r) {
    const Index live = row + r < m.rows ? min(m.prefix[row + r], end) : begin;
    for (Index p = begin; p < end; ++p)
      panel[(p - begin) * panel_width + r] = p < live ? m.weight[(row + r) * m.columns + p] : 0.0f;
  }
}

void pack_rows(const MaskedMatrix& m, Index column, Index begin, Index end, float* panel) {
  for (Index p = begin; p < end; ++p, panel += panel_width)
    copy_padded(m.weight + p * m.columns + column, m.prefix[p] - column, panel);
}

}  // namespace vlae::VLAE_ISA
