// One autoregressive net of any wiring, both directions in the work of one pass.
//
// Vector lanes are samples. The units of every layer are sorted by degree, so that those of one degree see a prefix of
// the layer below: degree after degree they are computed, each once, then the two outputs of the next variable, then
// that variable. Every sum runs term by term, so no result depends on the samples beside it or on the number of lanes.
#include "made/made.h"
#include "made/maps.h"

namespace vlae::VLAE_ISA {

using namespace made;

namespace {

constexpr int some_vectors = vector_registers == 32 ? 4 : 2;  // of samples at once, and 6 units: sums in registers
constexpr int many_vectors = 2 * some_vectors;                // and 3 units: even one alone fills the pipeline
constexpr Index packing_grain = 64;

// Units (or the variables) in the order of their degrees.
struct Order {
  Index* at;     // [units] the unit that comes p-th
  Index* place;  // [units] where a unit comes
  Index* below;  // [D + 2] how many are of a degree < d
  Index seen(Index degree) const { return below[degree + 1]; }
};

// How many floats and indices the layers take together, and the widths of what they read.
class Net {
 public:
  Net(const MADE& s, Index n_threads)
      : s_(s), orders_(s.L + 1), indices_(count_indices(s)), starts_(s.L + 1), weights_(count_weights(s)) {
    Index* memory = indices_;
    memory = sort(s.D, s.positions, s.D, 1, memory, orders_[0]);
    for (Index l = 0; l < s.L; ++l) {
      const bool outputs = l == s.L - 1;
      const MADELayer& layer = s.layers[l];
      memory = sort(layer.rows, outputs ? s.positions : layer.degrees, outputs ? s.D : layer.rows, 0, memory,
                    orders_[l + 1]);
    }
    starts_[0] = 0;
    for (Index l = 0; l < s.L; ++l) {
      starts_[l + 1] = starts_[l] + s.layers[l].rows * columns(l);
      parallel(n_threads, s.layers[l].rows, packing_grain, [&](Index begin, Index end) { pack(l, begin, end); });
    }
  }

  const Order& variables() const { return orders_[0]; }
  const Order& order(Index l) const { return orders_[l + 1]; }
  const Order& source(Index l) const { return orders_[s_.layers[l].source + 1]; }
  Index columns(Index l) const { return s_.layers[l].source < 0 ? s_.D : s_.layers[s_.layers[l].source].rows; }
  // The weights of the p-th unit of a layer for the units that it sees, as far as it sees them.
  const float* weights(Index l, Index p) const { return weights_.data() + starts_[l] + p * columns(l); }

 private:
  static Index count_indices(const MADE& s) {
    Index count = 2 * s.D + s.D + 2;
    for (Index l = 0; l < s.L; ++l) count += 2 * s.layers[l].rows + s.D + 2;
    return count;
  }
  static Index count_weights(const MADE& s) {
    Index count = 0;
    for (Index l = 0; l < s.L; ++l)
      count += s.layers[l].rows * (s.layers[l].source < 0 ? s.D : s.layers[s.layers[l].source].rows);
    return count;
  }

  // Degree of unit i: degrees[i % period] + more. Degrees out of range do no harm.
  Index* sort(Index units, const Index* degrees, Index period, Index more, Index* memory, Order& order) const {
    order = {memory, memory + units, memory + 2 * units};
    const auto degree = [&](Index i) { return min(s_.D, degrees[i % period] < 0 ? 0 : degrees[i % period] + more); };
    for (Index d = 0; d < s_.D + 2; ++d) order.below[d] = 0;
    for (Index i = 0; i < units; ++i) ++order.below[degree(i)];
    for (Index d = 1; d < s_.D + 2; ++d) order.below[d] += order.below[d - 1];
    for (Index i = units - 1; i >= 0; --i) {
      order.place[i] = --order.below[degree(i)];
      order.at[order.place[i]] = i;
    }
    return memory + 2 * units + s_.D + 2;
  }

  void pack(Index l, Index begin, Index end) const {
    const Order &own = order(l), &from = source(l);
    const Index width = columns(l);
    Index degree = 0;
    for (Index p = begin; p < end; ++p) {
      while (own.seen(degree) <= p) ++degree;
      const float* row = s_.layers[l].weight + own.at[p] * width;
      float* to = weights_.data() + starts_[l] + p * width;
      for (Index i = 0; i < from.seen(degree); ++i) to[i] = row[from.at[i]];
    }
  }

  const MADE& s_;
  Array<Order> orders_;  // of the variables, then of each layer
  Array<Index> indices_, starts_;
  Scratch weights_;
};

// A sum that carries along what it rounds off (Kahan): many log scales that are nearly equal err in one direction.
struct Sum {
  V total, lost;
  void add(V x) {
    const V next = x - lost, sum = total + next;
    lost = (sum - total) - next;
    total = sum;
  }
};

// K * lanes samples; all that is known of them lies [unit in its order][sample].
template <int K>
class Samples {
 public:
  Samples(const MADE& s, const Net& net)
      : s_(s),
        net_(net),
        offset_(s.L),
        x_(s.D * width),
        y_(s.D * width),
        context_(s.C * width),
        gates_(s.G * width),
        raw_(rows(s) * width),
        active_(rows(s) * width) {
    for (Index l = 0, offset = 0; l < s.L; offset += s.layers[l++].rows * width) offset_[l] = offset;
  }

  void run(Index begin, Index N, const MADEArrays& a) {
    const Order& variables = net_.variables();
    gather(N, a.x + begin * s_.D, s_.D, variables.at, (s_.inverse ? y_ : x_).data());
    gather(N, a.context + begin * s_.C, s_.C, nullptr, context_.data());
    gather(N, a.gates + begin * s_.G, s_.G, nullptr, gates_.data());
    Sum log_det[K] = {};
    for (Index j = 0; j < s_.D; ++j) {
      for (Index l = 0; l < s_.L; ++l) compute(l, j);
      transform(j, log_det);
    }
    const float* result = (s_.inverse ? x_ : y_).data();
    for (Index n = 0; n < N; ++n) {
      float* to = a.y + (begin + n) * s_.D;
      for (Index j = 0; j < s_.D; ++j) to[variables.at[j]] = result[j * width + n];
      a.log_det[begin + n] = log_det[n / lanes].total[n % lanes];
    }
  }

 private:
  static constexpr Index width = K * lanes;
  static constexpr int most_rows = K == many_vectors ? 3 : 6;

  static Index rows(const MADE& s) {
    Index count = 0;
    for (Index l = 0; l < s.L; ++l) count += s.layers[l].rows;
    return count;
  }

  // to[c][n] = from[n][c-th column], zeros beyond the last sample
  static void gather(Index N, const float* from, Index columns, const Index* order, float* to) {
    for (Index c = 0; c < columns; ++c, to += width) {
      const float* column = from + (order ? order[c] : c);
      for (Index n = 0; n < N; ++n) to[n] = column[n * columns];
      for (Index n = N; n < width; ++n) to[n] = 0.0f;
    }
  }

  // All units of this degree.
  void compute(Index l, Index degree) const {
    const Order& own = net_.order(l);
    const Index end = own.seen(degree);
    for (Index p = own.below[degree]; p < end;) {
      const Index left = end - p, tiles = (left + most_rows - 1) / most_rows, count = (left + tiles - 1) / tiles;
      tile_of<most_rows>(count, l, p, net_.source(l).seen(degree), degree);
      p += count;
    }
  }

  template <int R>
  void tile_of(Index count, Index l, Index p, Index terms, Index degree) const {
    if constexpr (R > 1)
      if (count < R) return tile_of<R - 1>(count, l, p, terms, degree);
    tile<R>(l, p, terms, degree);
  }

  // R units from the p-th on.
  template <int R>
  [[gnu::noinline]] void tile(Index l, Index p, Index terms, Index degree) const {
    const MADELayer& layer = s_.layers[l];
    const Index* at = net_.order(l).at + p;
    V sum[R][K];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
      for (int k = 0; k < K; ++k) {
        sum[r][k] = broadcast(layer.bias[at[r]]);
        if (layer.context >= 0) sum[r][k] += load(context_.data() + (layer.context + at[r]) * width + k * lanes);
      }
    const float* x = source(layer);
    const float* weight = net_.weights(l, p);
    const Index row = net_.columns(l);
    for (Index i = 0; i < terms; ++i, x += width)
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
        for (int k = 0; k < K; ++k) sum[r][k] = fma(weight[r * row + i], load(x + k * lanes), sum[r][k]);
    for (int r = 0; r < R; ++r) finish(l, p + r, at[r], degree, sum[r]);
  }

  const float* source(const MADELayer& layer) const {
    if (layer.source < 0) return x_.data();
    return (layer.activated ? active_ : raw_).data() + offset_[layer.source];
  }

  // Gate and residual of a unit, then its activation.
  void finish(Index l, Index p, Index unit, Index degree, const V (&sum)[K]) const {
    const MADELayer& layer = s_.layers[l];
    const float* added = nullptr;
    if (layer.adds >= 0) {
      const Order& order = net_.order(layer.adds);
      if (order.place[unit] < order.seen(degree)) added = raw_.data() + offset_[layer.adds] + order.place[unit] * width;
    }
    const Index to = offset_[l] + p * width;
    for (int k = 0; k < K; ++k) {
      V v = sum[k];
      if (layer.gate >= 0) v *= load(gates_.data() + (layer.gate + unit) * width + k * lanes);
      if (added) v += load(added + k * lanes);
      store(raw_.data() + to + k * lanes, v);
      if (layer.feeds_activated) store(active_.data() + to + k * lanes, activate(s_.activation, v));
    }
  }

  // The j-th variable: y = scale * x + shift, or back.
  void transform(Index j, Sum (&log_det)[K]) const {
    const Index out = offset_[s_.L - 1] + net_.order(s_.L - 1).below[j] * width;
    for (int k = 0; k < K; ++k) {
      const float* shift = raw_.data() + out + k * lanes;
      const Affine t = affine(s_.scale, s_.first, s_.second, load(shift), s_.scale ? load(shift + width) : V{});
      float *x = x_.data() + j * width + k * lanes, *y = y_.data() + j * width + k * lanes;
      if (s_.inverse) {
        store(x, (load(y) - t.shift) / t.scale);
        log_det[k].add(-t.log_scale);
      } else {
        store(y, fma(t.scale, load(x), t.shift));
        log_det[k].add(t.log_scale);
      }
    }
  }

  const MADE& s_;
  const Net& net_;
  Array<Index> offset_;
  Scratch x_, y_, context_, gates_, raw_, active_;
};

// Samples from `begin` on, K vectors at a time while at least `least` are left; returns where the others begin.
template <int K>
Index run_all(const MADE& s, const Net& net, const MADEArrays& a, Index begin, Index end, Index least) {
  if (end - begin < least) return begin;
  Samples<K> samples(s, net);
  for (; end - begin >= least; begin += min(end - begin, K * lanes)) samples.run(begin, min(end - begin, K * lanes), a);
  return begin;
}

}  // namespace

void made_transform(const MADE& s, const MADEArrays& a, Index n_threads) {
  const Net net(s, n_threads);
  parallel(n_threads, s.N, some_vectors * lanes, [&](Index begin, Index end) {
    begin = run_all<many_vectors>(s, net, a, begin, end, many_vectors * lanes);
    begin = run_all<some_vectors>(s, net, a, begin, end, some_vectors * lanes / 2);
    run_all<1>(s, net, a, begin, end, 1);
  });
}

}  // namespace vlae::VLAE_ISA
