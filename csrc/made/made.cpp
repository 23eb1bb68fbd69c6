// The masks of a MADE as prefixes, and the panels that every product of made.h runs over.
#include "made/made.h"

namespace vlae::VLAE_ISA::made {

Prefixes::Prefixes(const MADEFlow& s, const Index* degrees) : memory_(2 * s.M + s.D + 1) {
  Index* seen_inputs = memory_;
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
  for (Index group = 0; group < panel_width; group += lanes, row += lanes) {
    const float* weight[lanes];  // rows below the matrix read its last row: no column of theirs is live
    VInt live;
    Index p = begin, longest = begin;
    for (int r = 0; r < lanes; ++r) {
      weight[r] = m.weight + min(row + r, m.rows - 1) * m.columns;
      live[r] = row + r < m.rows ? static_cast<std::int32_t>(min(m.prefix[row + r], end)) : 0;
      if (live[r] > longest) longest = live[r];
    }
    float* to = panel + group;
    V columns[4];
    const Index all_live = row + lanes <= m.rows ? live[0] : begin;
    for (; p + 4 <= all_live; p += 4, to += 4 * panel_width) {
      transpose([&](int r) { return load_quad(weight[r] + p); }, columns);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store(to + i * panel_width, columns[i]);
    }
    for (; p < longest; p += 4) {
      const Index count = min(4, m.columns - p);
      if (count == 4)
        transpose([&](int r) { return load_quad(weight[r] + p); }, columns);
      else
        transpose([&](int r) { return load_some(weight[r] + p, count); }, columns);
      for (int i = 0; i < min(4, end - p); ++i, to += panel_width)
        store(to, live > static_cast<std::int32_t>(p + i) ? columns[i] : V{});
    }
    for (; p < end; ++p, to += panel_width) store(to, V{});
  }
}

void pack_rows(const MaskedMatrix& m, Index column, Index begin, Index end, float* panel) {
  for (Index p = begin; p < end; ++p, panel += panel_width)
    copy_padded(m.weight + p * m.columns + column, m.prefix[p] - column, panel);
}

}  // namespace vlae::VLAE_ISA::made
