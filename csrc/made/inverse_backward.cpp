// Back through the inverse of an autoregressive step, in the work of one pass: what made_transform does, from the last
// degree to the first. When a variable's turn comes all that reads it has its gradient, and so with every unit.
#include "made/samples.h"

namespace vlae::VLAE_ISA {

using namespace made;

namespace {

// K * lanes samples; gradients lie as the values do.
template <int K>
class Gradients {
 public:
  Gradients(const MADE& s, const Nets& nets)
      : s_(s),
        samples_(s, nets),
        dx_(s.D * width),
        dlog_det_(width),
        dvalues_(nets.most_units() * width),
        dsums_(nets.most_units() * width) {}

  // dy of N samples from row `begin` on.
  void run(Index begin, Index N, const float* x, const float* dx, const float* dlog_det, float* dy) {
    samples_.run_net(begin, N, x);
    net_ = samples_.net();
    Samples<K>::read(N, dx + begin * s_.D, s_.D, s_.D, net_.variables.place, dx_.data());
    Samples<K>::read(N, dlog_det + begin, 1, 1, nullptr, dlog_det_.data());
    for (Index j = s_.D - 1; j >= 0; --j) {
      gather_variable(j);
      transform(j);
      if (j > 0)  // the others feed no variable
        for (Index l = net_.given->L - 2; l >= 0; --l) units(l, j);
    }
    for (Index j = 0; j < s_.D; ++j) {
      const float* row = dx_.data() + net_.variables.place[j] * width;
      for (Index n = 0; n < N; ++n) dy[(begin + n) * s_.D + j] = row[n];
    }
  }

 private:
  static constexpr Index width = Samples<K>::width;

  // sum[r] += of all units of at least that degree in a layer: weight for the (p + r)-th of its source, times gradient.
  template <int R, int W>
  void gather(const Layer& layer, Index degree, Index p, Index n, V (&sum)[R][W]) const {
    const Index begin = layer.order.below[degree], end = layer.order.below[s_.D];
    const float *weight = layer.row(begin) + 1 + p, *d = dsums_.data() + (layer.first + begin) * width + n;
    for (Index q = begin; q < end; ++q, weight += 1 + layer.columns, d += width) {
      V v[W];
      for (int k = 0; k < W; ++k) v[k] = load(d + k * lanes);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r)
        for (int k = 0; k < W; ++k) sum[r][k] = fma(weight[r], v[k], sum[r][k]);
    }
  }

  void gather_variable(Index j) {
    V sum[1][K];
    float* dx = dx_.data() + j * width;
    for (int k = 0; k < K; ++k) sum[0][k] = load(dx + k * lanes);
    for (Index l = 0; l < net_.given->L; ++l)
      if (net_.layers[l].given->source < 0) gather<1, K>(net_.layers[l], j + 1, j, 0, sum);
    for (int k = 0; k < K; ++k) store(dx + k * lanes, sum[0][k]);
  }

  // From the j-th variable's gradient that of what it was made of, and of the two outputs.
  void transform(Index j) {
    const MADEStep& step = *net_.given;
    const float first = static_cast<float>(step.first), second = static_cast<float>(step.second);
    const Layer& outputs = net_.layers[step.L - 1];
    const Index p = outputs.order.below[j];
    for (int k = 0; k < K; ++k) {
      const Index n = k * lanes;
      const V shift = load(samples_.values(outputs, p) + n), x = load(samples_.variable(j) + n);
      const V raw = step.scale ? load(samples_.values(outputs, p + 1) + n) : V{};
      LogProduct unused;
      const Affine t = affine(step.scale, first, second, shift, raw, unused);
      float* dx = dx_.data() + j * width + n;
      const V given = load(dx), dy = given / t.scale, complement = sigmoid(-raw - first);
      const bool gated = step.scale == 6;
      store(dx, dy);
      pass(outputs, p, n, gated ? -dy * complement : -dy);
      if (step.scale) {
        const V dlog_scale = given * ((gated ? shift : V{}) - x) - load(dlog_det_.data() + n);
        pass(outputs, p + 1, n, dlog_scale * log_scale_slope(step.scale, first, second, raw));
      }
    }
  }

  // The units of that degree in layer l.
  void units(Index l, Index degree) {
    const Layer& layer = net_.layers[l];
    by_tiles<K>(layer.order.below[degree], layer.order.seen(degree),
                [&]<int R, int W>(Index p, Index n) { tile<R, W>(l, degree, p, n); });
  }

  template <int R, int W>
  [[gnu::noinline]] void tile(Index l, Index degree, Index p, Index n) {
    const Layer& layer = net_.layers[l];
    V of_values[R][W] = {}, of_activations[R][W] = {};
    for (Index c = l + 1; c < net_.given->L; ++c) {
      const Layer& other = net_.layers[c];
      if (other.given->source == l) gather(other, degree, p, n, other.given->activated ? of_activations : of_values);
    }
    for (int r = 0; r < R; ++r)
      for (int k = 0; k < W; ++k) {
        const Index at = n + k * lanes;
        V d = of_values[r][k];
        if (layer.given->feeds_activated)
          d = fma(of_activations[r][k],
                  activation_slope(net_.given->activation, load(samples_.values(layer, p + r) + at)), d);
        for (Index c = l + 1; c < net_.given->L; ++c) {
          const Layer& other = net_.layers[c];
          if (other.given->adds != l) continue;
          const Index place = other.order.place[layer.order.at[p + r]];
          if (place >= other.order.below[degree] && place < other.order.below[s_.D])
            d += load(dvalues_.data() + (other.first + place) * width + at);
        }
        pass(layer, p + r, at, d);
      }
  }

  // A value's gradient, and that of its sum.
  void pass(const Layer& layer, Index p, Index n, V d) {
    const Index at = (layer.first + p) * width + n;
    store(dvalues_.data() + at, d);
    store(dsums_.data() + at, layer.given->gates ? d * load(samples_.gates(layer, p) + n) : d);
  }

  const MADE& s_;
  Samples<K> samples_;
  Net net_ = {};
  Scratch dx_, dlog_det_, dvalues_, dsums_;
};

}  // namespace

void made_inverse_backward(const MADE& s, const float* x, const float* dx, const float* dlog_det, Index n_threads,
                           float* dy) {
  const Nets nets(s, n_threads);
  by_samples(n_threads, s.N, [&]<int K>(Index begin, Index end) {
    Gradients<K> gradients(s, nets);
    for (Index count; begin < end; begin += count) {
      count = min(end - begin, K * lanes);
      gradients.run(begin, count, x, dx, dlog_det, dy);
    }
  });
}

}  // namespace vlae::VLAE_ISA
