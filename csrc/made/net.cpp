#include "made/net.h"

namespace vlae::VLAE_ISA::made {

namespace {

constexpr Index packing_grain = 64;

Index count_layers(const MADE& s) {
  Index count = 0;
  for (Index t = 0; t < s.T; ++t) count += s.steps[t].L;
  return count;
}

Index order_size(const MADE& s, Index units) { return 2 * units + s.D + 2; }

Index count_orders(const MADE& s) {
  Index count = s.T * order_size(s, s.D);
  for (Index l = 0; l < count_layers(s); ++l) count += order_size(s, s.layers[l].rows);
  return count;
}

Index columns_of(const MADE& s, const MADELayer* layers, Index l) {
  return layers[l].source < 0 ? s.D : layers[layers[l].source].rows;
}

Index count_weights(const MADE& s) {
  Index count = 0;
  const MADELayer* layers = s.layers;
  for (Index t = 0; t < s.T; layers += s.steps[t++].L)
    for (Index l = 0; l < s.steps[t].L; ++l) count += layers[l].rows * (1 + columns_of(s, layers, l));
  return count;
}

// Degree of unit i: degrees[i % period] + more. Degrees out of range do no harm.
Order sorted(const MADE& s, Index units, const Index* degrees, Index period, Index more, Index*& memory) {
  const Order order = {memory, memory + units, memory + 2 * units};
  memory += order_size(s, units);
  const auto degree = [&](Index i) { return min(s.D, degrees[i] < 0 ? 0 : degrees[i] + more); };
  for (Index d = 0; d < s.D + 2; ++d) order.below[d] = 0;
  for (Index begin = 0; begin < units; begin += period)
    for (Index i = 0; i < period; ++i) ++order.below[degree(i)];
  for (Index d = 1; d < s.D + 2; ++d) order.below[d] += order.below[d - 1];
  for (Index begin = units; begin > 0; begin -= period)
    for (Index i = period - 1; i >= 0; --i) {
      const Index unit = begin - period + i, place = --order.below[degree(i)];
      order.place[unit] = place;
      order.at[place] = unit;
    }
  return order;
}

void pack(const Layer& layer, Index begin, Index end) {
  const MADELayer& given = *layer.given;
  Index degree = 0;
  for (Index p = begin; p < end; ++p) {
    while (layer.order.seen(degree) <= p) ++degree;
    const Index unit = layer.order.at[p], row = given.row ? given.row[unit] : unit, terms = layer.source->seen(degree);
    const float* from = given.weight + row * given.weight_row;
    float* to = layer.weights + p * (1 + layer.columns);
    *to++ = given.bias ? given.bias[row] : 0.0f;
    for (Index i = 0; i < terms; ++i) to[i] = from[layer.source->at[i]];
    if (given.forbidden)
      for (Index i = 0; i < terms; ++i)
        if (given.forbidden[unit * layer.columns + layer.source->at[i]]) to[i] = 0.0f;
  }
}

}  // namespace

Nets::Nets(const MADE& s, Index n_threads)
    : nets_(s.T), layers_(count_layers(s)), orders_(count_orders(s)), weights_(count_weights(s)) {
  const MADELayer* given = s.layers;
  Layer* layers = layers_;
  Index* orders = orders_;
  float* weights = weights_.data();
  for (Index t = 0; t < s.T; ++t) {
    const MADEStep& step = s.steps[t];
    nets_[t] = {&step, sorted(s, s.D, step.positions, s.D, 1, orders), layers};
    Index units = 0;
    for (Index l = 0; l < step.L; ++l) {
      const bool outputs = l == step.L - 1;
      const Index rows = given[l].rows, columns = columns_of(s, given, l), period = outputs ? s.D : rows;
      layers[l] = {&given[l],
                   sorted(s, rows, outputs ? step.positions : given[l].degrees, period, 0, orders),
                   given[l].source < 0 ? &nets_[t].variables : &layers[given[l].source].order,
                   columns,
                   units,
                   weights};
      units += rows;
      weights += rows * (1 + columns);
      parallel(n_threads, rows, packing_grain, [&](Index begin, Index end) { pack(layers[l], begin, end); });
    }
    if (units > most_units_) most_units_ = units;
    given += step.L;
    layers += step.L;
  }
}

}  // namespace vlae::VLAE_ISA::made
