// Samples as a net's work on them goes: vector lanes are samples. Degree after degree the units of every layer are
// computed, each once, as those of one degree see a prefix of the layer below; then the two outputs of the next
// variable, then that variable. A few degrees make a block, so that sums for several units run side by side over what
// was known before it; what a block adds to itself follows. Every sum runs term by term, so no result depends on the
// samples beside it, on blocks or on the number of lanes.
#pragma once
#include "made/maps.h"
#include "made/net.h"

namespace vlae::VLAE_ISA::made {

constexpr int some_vectors = vector_registers == 32 ? 4 : 2;  // of samples at once, and 6 units: sums in registers
constexpr int many_vectors = 2 * some_vectors;                // and one unit: even one alone fills the pipeline
constexpr int most_rows = 6;

// The terms of a sum.
struct Terms {
  Index begin, end;
};

// Calls body.template operator()<R, W>(p, n) for tiles of R units from the p-th on and W vectors of samples from n on,
// which cover the units p..end and K vectors.
template <int K, int R = most_rows, class Body>
inline void by_tiles(Index p, Index end, const Body& body) {
  if constexpr (R == most_rows) {
    while (end - p > R) {
      const Index tiles = (end - p + R - 1) / R, count = (end - p + tiles - 1) / tiles;
      by_tiles<K>(p, p + count, body);
      p += count;
    }
  }
  if constexpr (R > 1)
    if (end - p < R) return by_tiles<K, R - 1>(p, end, body);
  constexpr int W = R == 1 || K < some_vectors ? K : some_vectors;
  if (p < end)
    for (Index n = 0; n < K * lanes; n += W * lanes) body.template operator()<R, W>(p, n);
}

// K * lanes samples; all that is known of them lies [unit in its order][sample].
template <int K>
class Samples {
 public:
  Samples(const MADE& s, const Nets& nets)
      : s_(s),
        nets_(nets),
        x_(s.D * width),
        y_(s.D * width),
        added_(nets.most_units() * width),
        gates_(nets.most_units() * width),
        raw_(nets.most_units() * width),
        active_(nets.most_units() * width) {}

  static constexpr Index width = K * lanes;

  // From row `begin` on N samples of all steps, in the direction of the call.
  void run(Index begin, Index N, const float* from, float* to, float* to_log_det) {
    float *const given = (s_.inverse ? y_ : x_).data(), *const found = (s_.inverse ? x_ : y_).data();
    LogProduct scales[K];
    read(N, from + begin * s_.D, s_.D, s_.D, nullptr, found);
    for (Index t = 0; t < s_.T; ++t) {
      const Index* place = t == 0 ? nullptr : net_.variables.place;
      net_ = nets_[t];
      for (Index j = 0; j < s_.D; ++j) {
        const Index variable = net_.variables.at[j], before = net_.given->from ? net_.given->from[variable] : variable;
        copy_row(found + (place ? place[before] : before) * width, given + j * width);
      }
      run_step(begin, N, scales);
    }
    for (Index j = 0; j < s_.D; ++j) {
      const float* row = found + net_.variables.place[s_.order ? s_.order[j] : j] * width;
      for (Index n = 0; n < N; ++n) to[(begin + n) * s_.D + j] = row[n];
    }
    for (int k = 0; k < K; ++k) {
      const V log_scale = scales[k].value(), log_det = s_.inverse ? -log_scale : log_scale;
      for (Index n = k * lanes; n < min(N, (k + 1) * lanes); ++n) to_log_det[begin + n] = log_det[n - k * lanes];
    }
  }

  // to[place of c][n] = from[n][c]; what is beyond the last sample is as that one.
  static void read(Index N, const float* from, Index row, Index columns, const Index* place, float* to) {
    for (Index n = 0; n < width; n += lanes)
      for (Index c = 0; c < columns; c += 4) {
        const Index count = min(4, columns - c);
        const auto quad = [&](Index r) { return from + min(n + r, N - 1) * row + c; };
        V column[4];
        if (count == 4)
          transpose([&](int r) { return load_quad(quad(r)); }, column);
        else
          transpose([&](int r) { return load_some(quad(r), count); }, column);
        for (Index i = 0; i < count; ++i) store(to + (place ? place[c + i] : c + i) * width + n, column[i]);
      }
  }

  // All that the first step's net has for x, for those who go back through it.
  void run_net(Index begin, Index N, const float* x) {
    LogProduct scales[K];
    net_ = nets_[0];
    read(N, x + begin * s_.D, s_.D, s_.D, net_.variables.place, x_.data());
    run_step(begin, N, scales);
  }
  const Net& net() const { return net_; }
  const float* variable(Index j) const { return x_.data() + j * width; }
  const float* values(const Layer& layer, Index p) const { return raw_.data() + (layer.first + p) * width; }
  const float* gates(const Layer& layer, Index p) const { return gates_.data() + (layer.first + p) * width; }

 private:
  static void copy_row(const float* from, float* to) {
    for (int k = 0; k < K; ++k) store(to + k * lanes, load(from + k * lanes));
  }

  void read_contexts(Index begin, Index N) const {
    for (Index l = 0; l < net_.given->L; ++l) {
      const Layer& layer = net_.layers[l];
      const MADELayer& given = *layer.given;
      const Index *place = layer.order.place, to = layer.first * width;
      if (given.context)
        read(N, given.context + begin * given.context_row, given.context_row, given.rows, place, added_.data() + to);
      if (given.gates)
        read(N, given.gates + begin * given.gates_row, given.gates_row, given.rows, place, gates_.data() + to);
    }
  }

  void run_step(Index begin, Index N, LogProduct (&scales)[K]) const {
    read_contexts(begin, N);
    for (Index j = 0; j < s_.D;) j = block(j, scales);
  }

  // The variables from j on that make a block; returns where the next begins.
  Index block(Index j, LogProduct (&scales)[K]) const {
    const Index end = block_end(j), L = net_.given->L;
    const bool several = end > j + 1;
    if (several)
      for (Index l = 0; l < L; ++l) {
        const Layer& layer = net_.layers[l];
        const Terms known = {0, layer.source->below[j]};
        if (known.end > 0) units(layer, layer.order.below[j], layer.order.below[end], known, false, j);
      }
    for (Index i = j; i < end; ++i) {
      for (Index l = 0; l < L; ++l) {
        const Layer& layer = net_.layers[l];
        const Terms terms = {several ? layer.source->below[j] : 0, layer.source->seen(i)};
        units(layer, layer.order.below[i], layer.order.seen(i), terms, true, i);
      }
      transform(i, scales);
    }
    return end;
  }

  // A block's units of a hidden layer fit in one tile, if they can.
  Index block_end(Index j) const {
    Index end = j + 1;
    for (; end < s_.D; ++end)
      for (Index l = 0; l < net_.given->L - (net_.given->L > 1); ++l)
        if (net_.layers[l].order.seen(end) - net_.layers[l].order.below[j] > most_rows) return end;
    return end;
  }

  // Adds terms to the sums of the units p..end of a layer; `last`: there are no more.
  void units(const Layer& layer, Index p, Index end, Terms terms, bool last, Index degree) const {
    by_tiles<K>(p, end, [&]<int R, int W>(Index p, Index n) { tile<R, W>(layer, p, terms, last, degree, n); });
  }

  // R units from the p-th on, of W vectors of samples from n on.
  template <int R, int W>
  [[gnu::noinline]] void tile(const Layer& layer, Index p, Terms terms, bool last, Index degree, Index n) const {
    const float* row = layer.row(p);
    const Index stride = 1 + layer.columns, at = (layer.first + p) * width + n;
    V sum[R][W];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
      for (int k = 0; k < W; ++k) {
        const Index i = at + r * width + k * lanes;
        if (terms.begin > 0) {
          sum[r][k] = load(raw_.data() + i);
        } else {
          sum[r][k] = broadcast(row[r * stride]);
          if (layer.given->context) sum[r][k] += load(added_.data() + i);
        }
      }
    const float* x = source(layer) + terms.begin * width + n;
    const float* weight = row + 1 + terms.begin;
    for (Index i = terms.begin; i < terms.end; ++i, ++weight, x += width) {
      V v[W];
      for (int k = 0; k < W; ++k) v[k] = load(x + k * lanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
        for (int k = 0; k < W; ++k) sum[r][k] = fma(weight[r * stride], v[k], sum[r][k]);
    }
    for (int r = 0; r < R; ++r)
      if (last)
        finish(layer, p + r, degree, n, sum[r]);
      else
        for (int k = 0; k < W; ++k) store(raw_.data() + at + r * width + k * lanes, sum[r][k]);
  }

  const float* source(const Layer& layer) const {
    const MADELayer& given = *layer.given;
    if (given.source < 0) return x_.data();
    return (given.activated ? active_ : raw_).data() + net_.layers[given.source].first * width;
  }

  // Gate and residual of a unit, then its activation.
  template <int W>
  void finish(const Layer& layer, Index p, Index degree, Index n, const V (&sum)[W]) const {
    const MADELayer& given = *layer.given;
    const float* added = nullptr;
    if (given.adds >= 0) {
      const Layer& other = net_.layers[given.adds];
      const Index place = other.order.place[layer.order.at[p]];
      if (place < other.order.seen(degree)) added = raw_.data() + (other.first + place) * width + n;
    }
    const Index to = (layer.first + p) * width + n;
    for (int k = 0; k < W; ++k) {
      V v = sum[k];
      if (given.gates) v *= load(gates_.data() + to + k * lanes);
      if (added) v += load(added + k * lanes);
      store(raw_.data() + to + k * lanes, v);
      if (given.feeds_activated) store(active_.data() + to + k * lanes, activate(net_.given->activation, v));
    }
  }

  // The j-th variable: y = scale * x + shift, or back.
  void transform(Index j, LogProduct (&scales)[K]) const {
    const MADEStep& step = *net_.given;
    const float first = static_cast<float>(step.first), second = static_cast<float>(step.second);
    const Layer& outputs = net_.layers[step.L - 1];
    const float* out = raw_.data() + (outputs.first + outputs.order.below[j]) * width;
    for (int k = 0; k < K; ++k, out += lanes) {
      const V raw = step.scale ? load(out + width) : V{};
      const Affine t = affine(step.scale, first, second, load(out), raw, scales[k]);
      float *x = x_.data() + j * width + k * lanes, *y = y_.data() + j * width + k * lanes;
      if (s_.inverse)
        store(x, (load(y) - t.shift) / t.scale);
      else
        store(y, fma(t.scale, load(x), t.shift));
    }
  }

  const MADE& s_;
  const Nets& nets_;
  Net net_ = {};
  Scratch x_, y_, added_, gates_, raw_, active_;
};

// Calls body.template operator()<K>(begin, end) for ranges of samples of which all but the last are as many as K
// vectors hold: many while enough are left.
template <class Body>
void by_samples(Index n_threads, Index N, Body body) {
  parallel(n_threads, N, some_vectors * lanes, [&](Index begin, Index end) {
    const auto run = [&]<int K>(Index least) {
      Index middle = begin;
      while (end - middle >= least) middle += min(end - middle, K * lanes);
      if (middle > begin) body.template operator()<K>(begin, middle);
      begin = middle;
    };
    run.template operator()<many_vectors>(many_vectors * lanes);
    run.template operator()<some_vectors>(some_vectors * lanes / 2);
    run.template operator()<1>(1);
  });
}

}  // namespace vlae::VLAE_ISA::made
