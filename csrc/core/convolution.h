// Convolution of images with pixels in the vector lanes: what masked_conv3x3 and the PixelCNN stack share.
//
// An image lies in a plane of memory as one long row: pixel (i, j) stands at q = i * (W + 1) + j. The one zero between
// two rows is the right border of the upper and the left border of the lower, so a tap (di, dj) is the same distance
// di * (W + 1) + dj for every pixel, and vectors run over row ends without a special case. What a convolution computes
// for the borders themselves is thrown away (Layout::inside).
//
// A convolution then is a list of inputs, a distance from the output pixel each (over taps and planes), and
//   out[o][q] = sum over inputs i of weight[i][o] * in[q + offset[i]];
// masked taps are not in the list. The same list with `correlate` gives the weight gradients, and the list of the
// transposed taps the input gradients.
#pragma once
#include "core/parallel.h"
#include "core/simd.h"

namespace vlae::VLAE_ISA::convolution {

constexpr Index tile = 2 * lanes;                              // pixels that `convolve` holds in registers
constexpr Index block = 4 * tile;                              // and pixels a channel that it hands on at once
constexpr Index output_group = 4;                              // channels are padded with zeros to a multiple of it
constexpr Index input_group = vector_registers == 32 ? 6 : 3;  // inputs that `correlate` holds in registers

inline Index round_up(Index n, Index multiple) { return (n + multiple - 1) / multiple * multiple; }
inline Index padded(Index channels) { return round_up(channels, output_group); }
inline Index padded_inputs(Index inputs) { return round_up(inputs, input_group); }

inline void set_zero(float* p, Index n) {
  if (n) __builtin_memset(p, 0, n * sizeof(float));  // p may be null where n is 0
}

// An odd number of cache lines, so that the planes of a pixel's channels spread over all sets of the cache.
inline Index plane_size(Index floats) { return round_up(floats, 16) | 16; }

// G images stand below one another, with a row of zeros between two.
struct Layout {
  Index H, W, G;
  Index stride;  // distance between rows
  Index image;   // and between images
  Index pixels;  // the long row, rounded up to whole tiles and `Wide`s
  Index margin;  // zeros before and behind it, at least as many as a tap reaches
  Index plane;   // floats of a plane

  Layout(Index H, Index W, Index G = 1)
      : H(H),
        W(W),
        G(G),
        stride(W + 1),
        image((H + 1) * stride),
        pixels(round_up(G * image - stride, tile < 16 ? 16 : tile)),
        margin(round_up(stride + 1, 16)),
        plane(plane_size(margin + pixels + margin)) {}

  // Distance of tap 0..8 of a 3x3 filter.
  Index distance(Index tap) const { return (tap / 3 - 1) * stride + tap % 3 - 1; }

  void to_plane(const float* image, float* q) const {
    for (Index i = 0; i < H; ++i) __builtin_memcpy(q + i * stride, image + i * W, W * sizeof(float));
  }
  void to_image(const float* q, float* image) const {
    for (Index i = 0; i < H; ++i) __builtin_memcpy(image + i * W, q + i * stride, W * sizeof(float));
  }
  // All bits of the pixels, none of the borders: [pixels].
  void inside(std::int32_t* mask) const {
    for (Index q = 0; q < pixels; ++q) mask[q] = q < G * image && q % stride < W && q / stride % (H + 1) < H ? -1 : 0;
  }
};

inline VInt load_mask(const std::int32_t* p) { return reinterpret_cast<VInt>(load(reinterpret_cast<const float*>(p))); }

// elu'(x) for e = elu(x).
inline V elu_slope(V e) { return e > V{} ? broadcast(1.0f) : e + 1.0f; }

struct Filter {
  Index inputs, outputs;
  const Index* offset;  // [inputs], then repeats of one of them up to a multiple of input_group
  const float* weight;  // packed by `pack_weights`
};

// Outputs that the next step of `convolve` computes at once, of those that are left.
inline Index outputs_at_once(Index left) {
  if (vector_registers == 16 || left < 8) return 4;
  return left < 12 || left % 12 == 4 ? 8 : 12;  // 4 alone would not keep the multipliers busy
}

inline Index packed_size(Index inputs, Index outputs) { return inputs * padded(outputs); }

// weight(output, input) -> [outputs / O][inputs][O] with O = outputs_at_once; zeros for the padding.
template <class Weight>
void pack_weights(Index inputs, Index outputs, Weight weight, float* packed) {
  for (Index first = 0, O; first < outputs; first += O) {
    O = outputs_at_once(padded(outputs) - first);
    for (Index i = 0; i < inputs; ++i)
      for (Index o = first; o < first + O; ++o) *packed++ = o < outputs ? weight(o, i) : 0.0f;
  }
}

// offset[channel * taps + tap] of a 3x3 filter (the first `taps` taps) or, with one tap, of a 1x1 filter; sign -1 for
// the transposed filter. `offset` has padded_inputs(channels * taps) elements.
inline void list_inputs(Index channels, Index taps, Index sign, const Layout& layout, Index plane, Index* offset) {
  Index i = 0;
  for (Index c = 0; c < channels; ++c)
    for (Index tap = 0; tap < taps; ++tap) offset[i++] = c * plane + (taps == 1 ? 0 : sign * layout.distance(tap));
  for (; i % input_group != 0; ++i) offset[i] = offset[i - 1];
}

// sums[O][block] of the tile at `in`. A function of its own, lest what follows it take registers from the loop.
template <int O>
__attribute__((noinline)) void convolve_tile(Index inputs, const Index* offset, const float* weight, const float* in,
                                             float* sums) {
  V sum[O][2];
#pragma GCC unroll 12
  for (int o = 0; o < O; ++o) sum[o][0] = sum[o][1] = V{};
  for (Index i = 0; i < inputs; ++i, weight += O) {
    const V a = load(in + offset[i]), b = load(in + offset[i] + lanes);
#pragma GCC unroll 12
    for (int o = 0; o < O; ++o) {
      sum[o][0] = fma(weight + o, a, sum[o][0]);
      sum[o][1] = fma(weight + o, b, sum[o][1]);
    }
  }
#pragma GCC unroll 12
  for (int o = 0; o < O; ++o) {
    store(sums + o * block, sum[o][0]);
    store(sums + o * block + lanes, sum[o][1]);
  }
}

template <int O, class Finish>
void convolve_outputs(const Filter& filter, Index first, const float* in, Index count, Finish finish) {
  const float* const weight = filter.weight + first * filter.inputs;
  alignas(64) float sums[O * block];
  for (Index q = 0; q < count; q += block) {
    const Index length = count - q < block ? count - q : block;
    for (Index k = 0; k < length; k += tile)
      convolve_tile<O>(filter.inputs, filter.offset, weight, in + q + k, sums + k);
    for (Index o = 0; o < O; ++o) finish(first + o, q, length, sums + o * block);
  }
}

// Calls finish(output, q, length, out) with out[0..length] of the pixels from q on, for all outputs (padding included)
// and, in runs of at most `block`, q = 0..count (a multiple of `tile`).
template <class Finish>
void convolve(const Filter& filter, const float* in, Index count, Finish finish) {
  const Index outputs = padded(filter.outputs);
  for (Index first = 0, O; first < outputs; first += O) {
    O = outputs_at_once(outputs - first);
    if constexpr (vector_registers == 32) {
      if (O == 12) convolve_outputs<12>(filter, first, in, count, finish);
      if (O == 8) convolve_outputs<8>(filter, first, in, count, finish);
    }
    if (O == 4) convolve_outputs<4>(filter, first, in, count, finish);
  }
}

// Sums over pixels (a multiple of 16) are kept as 4 partial sums: folding that far needs no shuffles.
using V4 = float __attribute__((vector_size(16)));

inline void add_folded(const Wide& w, float* sums) {
  V4 part[4];
  __builtin_memcpy(part, &w, sizeof w);
  V4* const p = reinterpret_cast<V4*>(sums);
  *p += ((part[0] + part[1]) + part[2]) + part[3];
}

inline Index correlation_size(Index inputs, Index outputs) { return padded_inputs(inputs) * padded(outputs); }
inline Index correlation_index(Index inputs, Index o, Index i) {
  return (o / output_group * padded_inputs(inputs) + i) * output_group + o % output_group;
}

// sums[correlation_index][4 partial sums] += sum over q < count of grad[o][q] * in[q + offset[i]].
inline void correlate(const Filter& filter, const float* in, const float* grad, Index grad_plane, Index count,
                      float* sums) {
  for (Index first = 0; first < filter.outputs; first += output_group)
    for (Index i0 = 0; i0 < filter.inputs; i0 += input_group) {
      Wide wide[input_group][output_group];
      for (int part = 0; part < 16 / lanes; ++part) {
        V sum[input_group][output_group] = {};
        for (Index q = part * lanes; q < count; q += 16) {
          V a[input_group];
          for (int i = 0; i < input_group; ++i) a[i] = load(in + q + filter.offset[i0 + i]);
          for (int o = 0; o < output_group; ++o) {
            const V d = load(grad + (first + o) * grad_plane + q);
            for (int i = 0; i < input_group; ++i) sum[i][o] = fma(d, a[i], sum[i][o]);
          }
        }
        for (int i = 0; i < input_group; ++i)
          for (int o = 0; o < output_group; ++o) wide[i][o].part[part] = sum[i][o];
      }
      for (int i = 0; i < input_group; ++i)
        for (int o = 0; o < output_group; ++o, sums += 4) add_folded(wide[i][o], sums);
    }
}

// sums[outputs][4 partial sums] += sum over q < count of grad[o][q].
inline void add_plane_sums(Index outputs, const float* grad, Index grad_plane, Index count, float* sums) {
  for (Index o = 0; o < outputs; ++o) {
    Wide sum = {};
    for (Index q = 0; q < count; q += 16) sum = sum + load_wide(grad + o * grad_plane + q);
    add_folded(sum, sums + 4 * o);
  }
}

// total[size] = sum over n < N of what work(n, sums[size][partials]) adds, where each thread has its own work = make();
// 4 partial sums or 1. Fixed chunks of images, summed in order: the same bits for any n_threads.
template <Index partials = 4, class Make>
void sum_over_images(Index N, Index n_threads, Index size, Make make, float* total) {
  const Index chunk = N > 128 ? round_up(N, 32) / 32 : 4;
  const Index chunks = round_up(N, chunk) / chunk;
  const Array<float> parts(chunks * size);
  parallel(n_threads, chunks, 1, [&](Index begin, Index end) {
    auto work = make();
    const Array<float> sums(partials * size);
    for (Index c = begin; c < end; ++c) {
      set_zero(sums, partials * size);
      for (Index n = c * chunk; n < N && n < (c + 1) * chunk; ++n) work(n, sums);
      for (Index k = 0; k < size; ++k) {
        const float* const p = sums + partials * k;
        parts[c * size + k] = partials == 1 ? p[0] : (p[0] + p[1]) + (p[2] + p[3]);
      }
    }
  });
  set_zero(total, size);
  for (Index c = 0; c < chunks; ++c)
    for (Index k = 0; k < size; ++k) total[k] += parts[c * size + k];
}

}  // namespace vlae::VLAE_ISA::convolution
