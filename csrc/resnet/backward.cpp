// All gradients of a ResNet, a group of images at a time a thread: the feature maps as they were kept, or anew, then
// the blocks backwards.
#include "resnet/resnet.h"

namespace vlae::VLAE_ISA::resnet {

namespace {

// Sums over pixels of products, pixel after pixel: lanes are the channels of one side, laid out pixel by pixel, and the
// other side's channels are broadcast from their planes.
//   sums[r * sums_row + 0..V_ * lanes) += a[r * plane + q] * b[q * b_row + 0..V_ * lanes) for the pixels q of a list.
template <int R, int V_>
[[gnu::noinline]] void add_products(const Index* pixels, Index count, const float* a, Index plane, const float* b,
                                    Index b_row, float* sums, Index sums_row) {
  V sum[R][V_];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V_; ++v) sum[r][v] = load(sums + r * sums_row + v * lanes);
  for (Index n = 0; n < count; ++n) {
    const Index q = pixels[n];
    V row[V_];
    for (int v = 0; v < V_; ++v) row[v] = load(b + q * b_row + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V_; ++v) sum[r][v] = fma(a[r * plane + q], row[v], sum[r][v]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V_; ++v) store(sums + r * sums_row + v * lanes, sum[r][v]);
}

// For any number of rows, and of lanes that is a multiple of 16.
void add_products(Index rows, Index width, const Index* pixels, Index count, const float* a, Index plane,
                  const float* b, Index b_row, float* sums, Index sums_row) {
  constexpr int most = vector_registers == 32 ? 8 : 4;
  for (Index r = 0, R; r < rows; r += R) {
    R = rows - r >= most ? most : rows - r >= 4 ? 4 : 1;
    for (Index i = 0, n; i < width; i += n) {
      n = width - i >= 2 * lanes ? 2 * lanes : lanes;
      const auto run = R == most ? (n > lanes ? add_products<most, 2> : add_products<most, 1>)
                       : R == 4  ? (n > lanes ? add_products<4, 2> : add_products<4, 1>)
                                 : (n > lanes ? add_products<1, 2> : add_products<1, 1>);
      run(pixels, count, a + r * plane, plane, b + i, b_row, sums + r * sums_row + i, sums_row);
    }
  }
}

inline Index whole(Index channels) { return round_up(channels, 16); }

// Planes to [pixels][whole(channels)].
void by_pixels(Index channels, Index pixels, const float* planes, Index plane, float* to) {
  const Index row = whole(channels);
  Index c = 0;
  for (; c + lanes <= channels; c += lanes)
    for (Index q = 0; q < pixels; q += 4) {
      V columns[4];
      transpose([&](int r) { return load_quad(planes + (c + r) * plane + q); }, columns);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) store(to + (q + i) * row + c, columns[i]);
    }
  for (; c < row; ++c)
    for (Index q = 0; q < pixels; ++q) to[q * row + c] = c < channels ? planes[c * plane + q] : 0.0f;
}

// Where the gradients of a block stand among the sums: weights as [9 taps][channel][lanes], see `wide_outputs`.
bool wide_outputs(const Conv& conv) {  // whether the lanes are the outputs: the side that wastes less of them
  return conv.inputs * whole(conv.outputs) <= conv.outputs * whole(conv.inputs);
}
Index weights_size(const Conv& conv) {
  return 9 * (wide_outputs(conv) ? conv.inputs * whole(conv.outputs) : conv.outputs * whole(conv.inputs));
}
struct Sums {
  Index weight1, bias1, weight2, skip, bias2, size;

  explicit Sums(const Block& b) {
    weight1 = 0;
    bias1 = weights_size(b.conv1);
    weight2 = bias1 + whole(b.conv1.outputs);
    skip = weight2 + (b.is_output() ? 0 : weights_size(b.conv2));
    bias2 = skip + (b.has_skip() ? weights_size(b.skip) : 0);
    size = bias2 + (b.is_output() ? 0 : whole(b.K));
  }
};

void read_weights(const Conv& conv, const float* sums, float* dweight) {
  const Index row = whole(wide_outputs(conv) ? conv.outputs : conv.inputs);
  for (Index tap = 0; tap < 9; ++tap)
    for (Index c = 0; c < conv.inputs; ++c)
      for (Index o = 0; o < conv.outputs; ++o) {
        const Index at = wide_outputs(conv) ? (tap * conv.inputs + c) * row + o : (tap * conv.outputs + o) * row + c;
        dweight[conv.index(o, c, tap)] = conv.scale * sums[at];
      }
}

void read_sums(const Block& b, const float* total, float* const* grads) {
  const Sums at(b);
  read_weights(b.conv1, total + at.weight1, grads[0]);
  for (Index o = 0; o < b.conv1.outputs; ++o) grads[1][o] = total[at.bias1 + o];
  if (b.is_output()) return;
  read_weights(b.conv2, total + at.weight2, grads[2]);
  for (Index o = 0; o < b.K; ++o) grads[3][o] = b.conv2.scale * total[at.bias2 + o];
  if (!b.has_skip()) return;
  read_weights(b.skip, total + at.skip, grads[4]);
  for (Index o = 0; o < b.K; ++o) grads[5][o] = total[at.bias2 + o];
}

}  // namespace

Index sums_size(const Plan& plan) {
  Index size = 0;
  for (Index k = 0; k < plan.net.B; ++k) size += Sums(plan.block[k]).size;
  return size;
}

// sums += the products of a convolution's inputs (planes) with the gradients of its outputs (planes, in phases where it
// doubles). `turned` is memory for whichever of them is laid out pixel by pixel.
void Group::add_weights(const Block& b, const Conv& conv, const float* in, const float* grad, float* sums) const {
  if (conv.inputs == 0 || conv.outputs == 0) return;
  const Layout& low = b.low;
  const bool wide = wide_outputs(conv);
  const Index channels = wide ? conv.outputs * conv.output_phases() : conv.inputs * conv.input_phases();
  const Index side = wide ? conv.outputs : conv.inputs, other = wide ? conv.inputs : conv.outputs, row = whole(side);
  const Index side_phases = channels / side, other_phases = wide ? conv.input_phases() : conv.output_phases();
  const Index margin = wide ? 0 : low.margin;  // inputs are read beyond the pixels
  float* const turned = turned_ + low.margin * row;
  for (Index p = 0; p < side_phases; ++p) {
    by_pixels(side, low.pixels + 2 * margin, (wide ? grad : in) + p * low.plane - margin, side_phases * low.plane,
              turned - margin * row);
    for (Index tap = 0; tap < 9; ++tap) {
      if (side_phases > 1 && phase_of(tap) != p) continue;
      const Index back = (tap / 3 == 0) * low.stride + (tap % 3 == 0);
      const Index distance = conv.resampling == Conv::none      ? low.distance(tap)
                             : conv.resampling == Conv::halving ? -back
                                                                : back;
      const Index phase = other_phases > 1 ? phase_of(tap) : 0;
      const float* const a = (wide ? in + distance : grad) + phase * low.plane;
      const float* const lanes_side = wide ? turned : turned + distance * row;
      add_products(other, row, b.pixels, b.pixel_count, a, other_phases * low.plane, lanes_side, row,
                   sums + tap * other * row, row);
    }
  }
}

// sums += the sum over all pixels of each plane.
void Group::add_bias(const Block& b, Index channels, const float* grad, Index apart, float* sums) const {
  for (Index o = 0; o < channels; ++o) {
    Wide total = {};
    for (Index q = 0; q < b.low.pixels; q += 16) total = total + load_wide(grad + o * apart + q);
    sums[o] += sum(total);
  }
}

void Group::backward(const float* dy, Index count, float* dx, float* sums) const {
  const ResNet& net = plan_.net;
  // Where the gradient of block k's result is wanted (of x: k = -1): in its own planes, or in maps_ to be split.
  const auto wanted = [&](Index k, Index& plane) -> float* {
    const bool own = k >= 0 && plan_.block[k].kind != up;
    plane = k >= 0 ? plan_.block[k].out.plane : plan_.block[0].in.plane;
    return own ? planes(k) + plan_.block[k].dout * plane : maps_ + 0;
  };
  Index plane;
  {
    const Layout& out = plan_.last().out;
    const Index K = plan_.last().K, pixels = out.H * out.W;
    float* const last = wanted(net.B - 1, plane);
    for (Index o = 0; o < K; ++o) {
      if (count < plan_.G) set_zero(last + o * plane, out.pixels);
      for (Index g = 0; g < count; ++g) out.to_plane(dy + (g * K + o) * pixels, last + o * plane + g * out.image);
    }
  }
  for (Index k = net.B - 1; k >= 0; --k) {
    const Block& b = plan_.block[k];
    const Layout& low = b.low;
    const Sums at(b);
    sums -= at.size;
    float* const e = planes(k);
    float *const dout = e + b.dout * low.plane, *const middle = e + b.middle * low.plane,
                 *const dmiddle = e + b.dmiddle * low.plane;
    if (b.kind == up)
      for (Index o = 0; o < b.K; ++o)
        split(b.out, low, plan_.G, maps_ + o * b.out.plane, dout + phases * o * low.plane, low.plane);
    const float* const activations = e + b.activations * low.plane;
    if (b.is_output()) {
      add_weights(b, b.conv1, activations, dout, sums + at.weight1);
      add_bias(b, b.K, dout, low.plane, sums + at.bias1);
    } else {
      add_weights(b, b.conv2, middle, dout, sums + at.weight2);
      if (b.has_skip()) add_weights(b, b.skip, e, dout, sums + at.skip);
      for (Index p = 0; p < b.result_phases(); ++p)
        add_bias(b, b.K, dout + p * low.plane, b.result_phases() * low.plane, sums + at.bias2);
      convolve(b.dmiddle_filter, e, low.pixels, [&](Index o, Index q, Index length, const float* from) {
        const float* const activation = middle + o * low.plane + q;
        float* const to = dmiddle + o * low.plane + q;
        for (Index i = 0; i < length; i += lanes)
          store(to + i, keep(load_mask(b.inside + q + i), load(from + i) * elu_slope(load(activation + i))));
      });
      add_weights(b, b.conv1, activations, dmiddle, sums + at.weight1);
      add_bias(b, b.M, dmiddle, low.plane, sums + at.bias1);
    }

    // To the input: the skip's part first, then that of conv1.
    Index to_plane;
    float* const to = wanted(k - 1, to_plane);
    const bool merges = b.kind == down;
    for (Index p = 0; p < b.input_phases(); ++p) {
      const auto place = [&](Index c) { return merges ? phases_ + (phases * c + p) * low.plane : to + c * to_plane; };
      if (b.has_skip())
        convolve(b.dskip[p], e, low.pixels, [&](Index c, Index q, Index length, const float* from) {
          if (c < b.C) __builtin_memcpy(place(c) + q, from, length * sizeof(float));
        });
      convolve(b.dinput[p], e, low.pixels, [&](Index c, Index q, Index length, const float* from) {
        if (c >= b.C) return;
        float* const here = place(c) + q;
        const float* const activation = e + (b.activations + b.input_phases() * c + p) * low.plane + q;
        const float* const direct = b.has_skip() ? here : b.is_output() ? nullptr : dout + c * low.plane + q;
        for (Index i = 0; i < length; i += lanes) {
          V d = load(from + i) * elu_slope(load(activation + i));
          if (direct) d += load(direct + i);
          store(here + i, keep(load_mask(b.inside + q + i), d));
        }
      });
    }
    if (merges)
      for (Index c = 0; c < b.C; ++c)
        merge(b.in, low, plan_.G, phases_ + phases * c * low.plane, low.plane, to + c * to_plane);
  }
  const Layout& in = plan_.block[0].in;
  const Index C = plan_.block[0].C;
  for (Index g = 0; g < count; ++g)
    for (Index c = 0; c < C; ++c) in.to_image(maps_ + c * in.plane + g * in.image, dx + (g * C + c) * in.H * in.W);
}

}  // namespace vlae::VLAE_ISA::resnet

namespace vlae::VLAE_ISA {

using namespace resnet;

void resnet_backward(const ResNet& net, ResNetParams* params, const float* dy, const float* x, const float* kept,
                     Index n_threads, float* dx, ResNetGrads* grads) {
  const Plan plan(net, params, true);
  const Layout& result = plan.last().out;
  const Index in = plan.block[0].C * net.H * net.W, out = plan.last().K * result.H * result.W, G = plan.G;
  const Index size = sums_size(plan);
  const Array<float> total(size);
  sum_over_images<1>((net.N + G - 1) / G, n_threads, size,
                     [&] {
                       return [&, group = Group(plan)](Index i, float* sums) {
                         const Index n = i * G, count = net.N - n < G ? net.N - n : G;
                         if (kept)
                           group.restore(count, kept + n * plan.kept);
                         else
                           group.forward(x + n * in, count, nullptr);
                         group.backward(dy + n * out, count, dx + n * in, sums + size);
                       };
                     },
                     total);
  const float* from = total;
  for (Index k = 0; k < net.B; ++k) {
    read_sums(plan.block[k], from, grads + 6 * k);
    from += Sums(plan.block[k]).size;
  }
}

}  // namespace vlae::VLAE_ISA
