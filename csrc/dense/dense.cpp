// A dense layer. Weights are read where they lie, row by row, in all three products: an output is the dot product of
// two rows, 16 interleaved partial sums and a tree, and the gradients are sums of rows. So one image is as cheap as its
// weights' way from memory, and no result depends on the batch around it.
#include "core/parallel.h"
#include "core/simd.h"

namespace vlae::VLAE_ISA {

namespace {

constexpr Index grain = 16;  // images worth a thread of their own
// Images and outputs whose partial sums stay in registers together.
constexpr int tile_images = vector_registers == 32 ? (lanes == 16 ? 4 : 2) : 2;
constexpr int tile_outputs = vector_registers == 32 ? (lanes == 16 ? 6 : 3) : (lanes == 8 ? 3 : 1);

inline Index min(Index a, Index b) { return a < b ? a : b; }
inline Index padded(Index n) { return (n + 15) / 16 * 16; }

// Rows of C floats, behind one another, to rows of padded(C), zeros behind; through ELU if wanted.
void pad_rows(Index rows, Index C, const float* from, bool through_elu, float* to) {
  for (Index r = 0; r < rows; ++r, from += C, to += padded(C)) {
    for (Index c = 0; c < padded(C); ++c) to[c] = c < C ? from[c] : 0.0f;
    if (through_elu)
      for (Index c = 0; c < C; c += lanes) store(to + c, elu(load(to + c)));
  }
}

// y[n][o] = bias[o] + dot(x[n], weight[o]): x has rows of padded(C), weight of C, but for the last columns, of which
// `rest` has rows of 16.
template <int R, int O>
[[gnu::noinline]] void dots(Index C, const float* x, const float* weight, const float* rest, const float* bias, Index K,
                            float* y) {
  Wide sums[R][O] = {};
  const Index whole = C / 16 * 16;
  const auto add = [&](Index c, const float* w, Index w_row) {
    Wide v[O];
    for (int o = 0; o < O; ++o) v[o] = load_wide(w + o * w_row);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Wide u = load_wide(x + r * padded(C) + c);
#pragma GCC unroll 8
      for (int o = 0; o < O; ++o) sums[r][o] = fma(u, v[o], sums[r][o]);
    }
  };
  for (Index c = 0; c < whole; c += 16) add(c, weight + c, C);
  if (whole < C) add(whole, rest, 16);
  for (int r = 0; r < R; ++r)
    for (int o = 0; o < O; ++o) y[r * K + o] = sum(sums[r][o]) + bias[o];
}

template <int R>
void dot_rows(Index C, Index K, const float* x, const float* weight, const float* rest, const float* bias, float* y) {
  Index o = 0;
  for (; o + tile_outputs <= K; o += tile_outputs)
    dots<R, tile_outputs>(C, x, weight + o * C, rest + o * 16, bias + o, K, y + o);
  for (; o < K; ++o) dots<R, 1>(C, x, weight + o * C, rest + o * 16, bias + o, K, y + o);
}

constexpr int width = 2 * lanes;  // columns of a tile of the gradients
constexpr int tile_rows = vector_registers == 32 ? 12 : 6;

// out[r][0..count) = sum over t < terms of a[r * a_row + t * a_term] * b[t * b_row + 0..count), term by term. `finish`
// maps (sum, row, column) to what is stored.
template <int R, class Finish>
void outer_tile(Index terms, const float* a, Index a_row, Index a_term, const float* b, Index b_row, Index count,
                Finish finish, float* out, Index out_row) {
  V sums[R][2] = {};
  if (count == width) {
    for (Index t = 0; t < terms; ++t, a += a_term, b += b_row) {
      const V low = load(b), high = load(b + lanes);
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        sums[r][0] = fma(a + r * a_row, low, sums[r][0]);
        sums[r][1] = fma(a + r * a_row, high, sums[r][1]);
      }
    }
  } else {
    for (Index t = 0; t < terms; ++t, a += a_term, b += b_row) {
      float row[width] = {};
      for (Index i = 0; i < count; ++i) row[i] = b[i];
      for (int r = 0; r < R; ++r)
        for (int v = 0; v < 2; ++v) sums[r][v] = fma(a + r * a_row, load(row + v * lanes), sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r) {
    float row[width];
    store(row, sums[r][0]);
    store(row + lanes, sums[r][1]);
    for (Index i = 0; i < count; ++i) out[r * out_row + i] = finish(row[i], r, i);
  }
}

// The same for any number of rows and columns.
template <class Finish>
void outer(Index rows, Index columns, Index terms, const float* a, Index a_row, Index a_term, const float* b,
           Index b_row, Finish finish, float* out, Index out_row) {
  for (Index i = 0; i < columns; i += width)
    for (Index r = 0; r < rows;) {
      const auto tile = [&]<int R>() {
        outer_tile<R>(
            terms, a + r * a_row, a_row, a_term, b + i, b_row, min(columns - i, width),
            [&](float value, Index row, Index column) { return finish(value, r + row, i + column); },
            out + r * out_row + i, out_row);
        r += R;
      };
      rows - r >= tile_rows ? tile.template operator()<tile_rows>() : tile.template operator()<1>();
    }
}

}  // namespace

void dense(const Dense& s, const float* x, const float* weight, const float* bias, Index n_threads, float* y) {
  const Index C = s.C, K = s.K, whole = C / 16 * 16;
  const Array<float> rest(16 * K);
  for (Index o = 0; o < K; ++o)
    for (Index i = 0; i < 16; ++i) rest[16 * o + i] = whole + i < C ? weight[o * C + whole + i] : 0.0f;
  parallel(n_threads, s.N, grain, [&](Index begin, Index end) {
    const Array<float> rows(tile_images * padded(C));
    for (Index n = begin; n < end;) {
      const Index count = end - n >= tile_images ? tile_images : 1;
      pad_rows(count, C, x + n * C, s.pre_elu, rows);
      (count == 1 ? dot_rows<1> : dot_rows<tile_images>)(C, K, rows, weight, rest, bias, y + n * K);
      n += count;
    }
  });
}

void dense_backward(const Dense& s, const float* dy, const float* x, const float* weight, Index n_threads, float* dx,
                    float* dweight, float* dbias) {
  const Index N = s.N, C = s.C, K = s.K, row = padded(C);
  const Array<float> e(N * row);
  parallel(n_threads, N, grain, [&](Index begin, Index end) {
    pad_rows(end - begin, C, x + begin * C, s.pre_elu, e + begin * row);
    outer(
        end - begin, C, K, dy + begin * K, K, 1, weight, C,
        [&](float value, Index n, Index c) {
          const float a = e[(begin + n) * row + c];
          return s.pre_elu && a <= 0.0f ? value * (a + 1.0f) : value;
        },
        dx + begin * C, C);
  });
  parallel(n_threads, K, grain, [&](Index begin, Index end) {
    outer(
        end - begin, C, N, dy + begin, 1, K, e, row, [](float value, Index, Index) { return value; },
        dweight + begin * C, C);
    for (Index o = begin; o < end; ++o) {
      dbias[o] = 0.0f;
      for (Index n = 0; n < N; ++n) dbias[o] += dy[n * K + o];
    }
  });
}

}  // namespace vlae::VLAE_ISA
