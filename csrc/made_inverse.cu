// Sampling direction, all T steps in one launch: each hidden unit is computed once, when the inputs it sees are known.
//
// First the weights are laid out for it: transposed, so that the units of one column lie side by side, and 0 where the
// mask forbids. Then a block owns a few samples and keeps their activations in shared memory. Units come in panels of
// about 64, whole degrees each:
//   1. what a panel's units owe to earlier inputs and units is a dense product, by all warps, weights streamed from L2;
//   2. within the panel, one warp goes through the degrees with 4 samples: draw z_j, finish the first-layer units of
//      degree j, add them to the second layer, finish its units of degree j, add them to the outputs of the panel. The
//      panel's own weights wait in shared memory, lanes are units, and no other warp is waited for;
//   3. what the later outputs owe to the panel's units is a dense product again.
// A degree of more units than a panel holds needs no step 2: its input is drawn, then come its units, 64 at a time.
//
// Two sizes of one kernel. Throughput: 32 samples and 8 warps a block, every weight read once for 32 samples. Latency,
// while every block of 4 samples has a multiprocessor to itself: 32 warps share the dense products of 4 samples. Dense
// products sum 16 classes of terms and add these in one order, so both give the same bits. Where activations do not
// fit into shared memory, the latency kernel keeps them in global memory.
//
// Floors (D = 64, M = 640, T = 4, mean only), on an H200 (67 TFLOP/s, 4.3 TB/s): 0.996 M live multiply-adds a sample,
// 0.12 ms at N = 4096; weights, 7.9 MB, 2 us from HBM once, and 4 MB of them from L2 for every block. Dependent steps:
// T * D = 256 draws, three dependent sums each of about 100 cycles, 0.05 ms, and T * 11 panels of three dense products,
// about 1 us each, 0.13 ms.
#include "made_cuda.h"

namespace vlae::cuda {
namespace {

constexpr const char* op = "made_flow_inverse";
constexpr int classes = 16;         // the terms p of a dense product with equal p % 16 are summed first
constexpr int summed_together = 4;  // and then the classes c with equal c % 4
constexpr int draw_samples = 4;     // of a warp, in a float4
constexpr int ahead = 4;            // terms whose weights are on their way
constexpr int warp_units = 32;      // of the dense product
constexpr int panel_outputs = 2 * panel_degrees;

template <int groups_, int group_samples_, int class_warps_, bool in_shared_>
struct Config {
  static constexpr int groups = groups_;                // of samples: lanes of a warp that share the units
  static constexpr int group_samples = group_samples_;  // of a lane
  static constexpr int class_warps = class_warps_;      // warps that share the classes of a dense product
  static constexpr bool in_shared = in_shared_;         // activations; else in global memory
  static constexpr int samples = groups * group_samples;
  static constexpr int row = samples + (samples > 4 ? 4 : 0);  // floats between rows: another bank for the next
  static constexpr int threads = 32 * class_warps * (panel_units / warp_units);
  // Parts of shared memory, in floats.
  static constexpr int partial_at = 0;                                          // [class_warps][panel_units][row]
  static constexpr int sum1_at = partial_at + class_warps * panel_units * row;  // [panel_units][row] and so on
  static constexpr int sum2_at = sum1_at + panel_units * row;
  static constexpr int hidden2_at = sum2_at + panel_units * row;
  static constexpr int own1_at =
      hidden2_at + panel_units * row;  // [panel_degrees][panel_units], the panel's own weights
  static constexpr int own2_at = own1_at + panel_degrees * panel_units;  // [panel_units][panel_units]
  static constexpr int own3_at = own2_at + panel_units * panel_units;    // [panel_units][panel_outputs]
  static constexpr int activations_at = own3_at + panel_units * panel_outputs;
};
using Throughput = Config<4, 8, 4, true>;
using Latency = Config<1, 4, 16, true>;
using LatencyInGlobal = Config<1, 4, 16, false>;

struct Inverse {
  Index N;
  int D, M, T, forms;
  int row2, row3;                            // floats of a row of the packed weights
  const float *weight1, *weight2, *weight3;  // packed: [T, D, row2], [T, M, row2], [T, M, row3]
  const float *bias1, *bias2, *bias3;
  const int *below, *panel_end;
  const float *eps, *hidden_context;
  float *z, *activations;  // [blocks, M + D + R, row] where they do not fit into shared memory

  __host__ __device__ int outputs() const { return D * forms; }
  __host__ __device__ Index activation_rows() const { return M + D + outputs(); }
};

__device__ inline float4 operator*(float4 a, float b) { return {a.x * b, a.y * b, a.z * b, a.w * b}; }
__device__ inline float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ inline float4 relu(float4 a) { return {cuda::relu(a.x), cuda::relu(a.y), cuda::relu(a.z), cuda::relu(a.w)}; }
__device__ inline float4& at4(float* p) { return *reinterpret_cast<float4*>(p); }

// The weights of `count` neighbouring units, from an address that is a multiple of as many floats.
template <int count>
__device__ inline void load_weights(const float* from, bool live, float (&to)[count]) {
  if constexpr (count == 4) {
    const float4 v = live ? __ldg(reinterpret_cast<const float4*>(from)) : float4{0.0f, 0.0f, 0.0f, 0.0f};
    to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
  } else {
    static_assert(count == 1);
    to[0] = live ? __ldg(from) : 0.0f;
  }
}

template <class C>
class Block {
 public:
  __device__ explicit Block(const Inverse& s) : s_(s), shared_(reinterpret_cast<float*>(shared_memory)) {}

  __device__ void run() {
    load();
    for (int t = s_.T - 1; t >= 0; --t) undo(t);
    store();
  }

 private:
  // [M], [D] and [R] rows; z holds what step t makes z of until that is drawn, outputs are sums until then.
  __device__ float* hidden1() const { return activations(); }
  __device__ float* z() const { return activations() + s_.M * C::row; }
  __device__ float* outputs() const { return activations() + (s_.M + s_.D) * C::row; }
  __device__ float* activations() const {
    if constexpr (C::in_shared)
      return shared_ + C::activations_at;
    else
      return s_.activations + blockIdx.x * s_.activation_rows() * C::row;
  }
  __device__ Index sample(int i) const { return static_cast<Index>(blockIdx.x) * C::samples + i; }

  __device__ void load() const {
    for (int i = thread(); i < s_.D * C::samples; i += C::threads) {
      const int j = i % s_.D, n = i / s_.D;
      z()[j * C::row + n] = sample(n) < s_.N ? s_.eps[sample(n) * s_.D + j] : 0.0f;
    }
    __syncthreads();
  }

  __device__ void store() const {
    for (int i = thread(); i < s_.D * C::samples; i += C::threads) {
      const int j = i % s_.D, n = i / s_.D;
      if (sample(n) < s_.N) s_.z[sample(n) * s_.D + j] = z()[j * C::row + n];
    }
  }

  // z = the inverse of step t at z
  __device__ void undo(int t) {
    for (int i = thread(); i < s_.D / 2 * C::samples; i += C::threads) {
      const int j = i / C::samples, n = i % C::samples;
      float &a = z()[j * C::row + n], &b = z()[(s_.D - 1 - j) * C::row + n];
      const float swap = a;
      a = b;
      b = swap;
    }
    for (int i = thread(); i < s_.outputs() * C::samples; i += C::threads) {
      const int q = i / C::samples, n = i % C::samples;
      outputs()[q * C::row + n] = s_.bias3[t * s_.outputs() + q % s_.forms * s_.D + q / s_.forms];
    }
    __syncthreads();
    for (int degree = 0; degree < s_.D;) {
      const int end = s_.panel_end[degree];
      draw_panel(t, degree, end);
      degree = end;
    }
  }

  __device__ void draw_panel(int t, int degree, int end) {
    const float* const weight1 = s_.weight1 + static_cast<Index>(t) * s_.D * s_.row2;
    const float* const weight2 = s_.weight2 + static_cast<Index>(t) * s_.M * s_.row2;
    const float* const weight3 = s_.weight3 + static_cast<Index>(t) * s_.M * s_.row3;
    const int begin = s_.below[degree], units_end = s_.below[end], base = begin / 4 * 4;
    const bool crowded = units_end - base > panel_units;
    if (crowded) {
      draw_alone(degree);
      __syncthreads();
    } else {
      fetch_own_weights(weight1, weight2, weight3, degree, end, base);
    }

    const int known = crowded ? end : degree, known_units = crowded ? units_end : begin;
    for (int first = base; first < units_end; first += panel_units)
      dense(weight1 + first, s_.row2, z(), known, [&](int slot, int n, float sum) {
        const int unit = first + slot;
        if (unit < begin || unit >= units_end) return;
        sum += s_.bias1[t * s_.M + unit];
        if (s_.hidden_context && sample(n) < s_.N) sum += s_.hidden_context[(sample(n) * s_.T + t) * s_.M + unit];
        if (crowded)
          hidden1()[unit * C::row + n] = cuda::relu(sum);
        else
          shared_[C::sum1_at + slot * C::row + n] = sum;
      });
    int first = base;
    do {  // once for a panel without units, too
      dense(weight2 + first, s_.row2, hidden1(), known_units, [&](int slot, int n, float sum) {
        const int unit = first + slot;
        if (unit >= units_end) return;
        sum += s_.bias2[t * s_.M + unit];
        if (crowded)
          shared_[C::hidden2_at + slot * C::row + n] = cuda::relu(sum);
        else
          shared_[C::sum2_at + slot * C::row + n] = sum;
      });
      if (!crowded) {
        if (thread() / 32 * draw_samples < C::samples) draw_degrees(degree, end, base);
        __syncthreads();
      }
      const int from = max(first, begin), count = min(first + panel_units, units_end) - from;
      for (int q = end * s_.forms / 4 * 4; q < s_.outputs(); q += panel_units)
        dense(weight3 + static_cast<Index>(from) * s_.row3 + q, s_.row3,
              shared_ + C::hidden2_at + (from - first) * C::row, count, [&](int slot, int n, float sum) {
                if (q + slot < s_.outputs()) outputs()[(q + slot) * C::row + n] += sum;
              });
      first += panel_units;
    } while (first < units_end);
  }

  // Copies the weights among the panel's own inputs, units and outputs. Slots are units counted from `base`. Whoever
  // reads them is behind a barrier of the dense products.
  __device__ void fetch_own_weights(const float* weight1, const float* weight2, const float* weight3, int degree,
                                    int end, int base) const {
    const int begin = s_.below[degree], units = s_.below[end] - begin;
    const int first = (degree + 1) * s_.forms, count = end * s_.forms - first;
    for (int i = thread(); i < (end - degree) * panel_units; i += C::threads)
      shared_[C::own1_at + i] =
          weight1[static_cast<Index>(degree + i / panel_units) * s_.row2 + base + i % panel_units];
    for (int i = thread(); i < units * panel_units; i += C::threads)
      shared_[C::own2_at + i] = weight2[static_cast<Index>(begin + i / panel_units) * s_.row2 + base + i % panel_units];
    for (int i = thread(); i < units * panel_outputs; i += C::threads)
      if (i % panel_outputs < count)
        shared_[C::own3_at + i] =
            weight3[static_cast<Index>(begin + i / panel_outputs) * s_.row3 + first + i % panel_outputs];
  }

  // finish(slot, sample, sum) for the sums over p < terms of weight[p * stride + slot] * x[p * row + sample]; slots
  // 0..63. weight is a multiple of 16 bytes. Ends with a barrier.
  template <class Finish>
  __device__ void dense(const float* weight, int stride, const float* x, int terms, const Finish& finish) const {
    constexpr int halves = panel_units / warp_units;
    const int warp = thread() / 32, lane = thread() % 32;
    const int slot = warp % halves * warp_units + lane / C::groups * C::groups;
    const int first_sample = lane % C::groups * C::group_samples, first_class = warp / halves;
    const int batches = (terms + classes * ahead - 1) / (classes * ahead), turns = classes / C::class_warps * batches;

    float weights[ahead][C::groups];
    const auto term_of = [&](int turn, int i) {
      return first_class + turn / batches * C::class_warps + (turn % batches * ahead + i) * classes;
    };
    const auto fetch = [&](int turn) {
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const int p = term_of(turn, i);
        load_weights(weight + static_cast<Index>(p) * stride + slot, p < terms, weights[i]);
      }
    };
    float total[C::groups][C::group_samples] = {}, sum[C::groups][C::group_samples] = {};
    if (turns > 0) fetch(0);
    for (int turn = 0; turn < turns; ++turn) {
      float now[ahead][C::groups];
#pragma unroll
      for (int i = 0; i < ahead; ++i)
#pragma unroll
        for (int u = 0; u < C::groups; ++u) now[i][u] = weights[i][u];
      if (turn + 1 < turns) fetch(turn + 1);
#pragma unroll
      for (int i = 0; i < ahead; ++i) {
        const float* const values = x + min(term_of(turn, i), terms - 1) * C::row + first_sample;
#pragma unroll
        for (int n = 0; n < C::group_samples; n += 4) {
          const float4 v = *reinterpret_cast<const float4*>(values + n);
#pragma unroll
          for (int u = 0; u < C::groups; ++u) {
            sum[u][n] += now[i][u] * v.x;
            sum[u][n + 1] += now[i][u] * v.y;
            sum[u][n + 2] += now[i][u] * v.z;
            sum[u][n + 3] += now[i][u] * v.w;
          }
        }
      }
      if (turn % batches == batches - 1)  // the end of a class
#pragma unroll
        for (int u = 0; u < C::groups; ++u)
#pragma unroll
          for (int n = 0; n < C::group_samples; ++n) {
            total[u][n] += sum[u][n];
            sum[u][n] = 0.0f;
          }
    }

    float* const partial = shared_ + C::partial_at;
#pragma unroll
    for (int u = 0; u < C::groups; ++u)
#pragma unroll
      for (int n = 0; n < C::group_samples; n += 4)
        at4(partial + (first_class * panel_units + slot + u) * C::row + first_sample + n) = {
            total[u][n], total[u][n + 1], total[u][n + 2], total[u][n + 3]};
    __syncthreads();
    for (int i = thread(); i < panel_units * C::samples; i += C::threads) {
      const int unit = i / C::samples, n = i % C::samples;
      float all = 0.0f;
      for (int c = 0; c < summed_together; ++c) {
        float some = 0.0f;
        for (int k = c; k < C::class_warps; k += summed_together)
          some += partial[(k * panel_units + unit) * C::row + n];
        all += some;
      }
      finish(unit, n, all);
    }
    __syncthreads();
  }

  // Draws z_j of a warp's samples, returned in all its lanes.
  __device__ float4 draw(int j, int n) const {
    const float4 mean = at4(outputs() + j * s_.forms * C::row + n);
    float4 drawn = at4(z() + j * C::row + n);
    if (s_.forms == 2) {
      const float4 scale = at4(outputs() + (j * 2 + 1) * C::row + n);
      drawn = {drawn.x * expf(scale.x), drawn.y * expf(scale.y), drawn.z * expf(scale.z), drawn.w * expf(scale.w)};
    }
    return drawn + mean;
  }

  __device__ void draw_alone(int j) const {
    const int n = thread() * draw_samples;
    if (n >= C::samples) return;
    at4(z() + j * C::row + n) = draw(j, n);
  }

  // A warp's way through a panel with 4 samples. A slot's sums belong to one lane.
  __device__ void draw_degrees(int degree, int end, int base) const {
    const int lane = thread() % 32, n = thread() / 32 * draw_samples;
    const int begin = s_.below[degree];
    const auto add = [&](float4 sum, const float* weight, int stride, const float* x, int count) {
#pragma unroll 4
      for (int p = 0; p < count; ++p) sum = sum + *reinterpret_cast<const float4*>(x + p * C::row) * weight[p * stride];
      return sum;
    };
    int unit = begin;  // the first of degree j
    const int units_end = s_.below[end];
    for (int j = degree; j < end; ++j) {
      const int unit_end = s_.below[j + 1];
      const float4 drawn = draw(j, n);
      __syncwarp();
      if (lane == 0) at4(z() + j * C::row + n) = drawn;
      for (int slot = unit - base + lane; slot < units_end - base; slot += 32) {
        float4& sum = at4(shared_ + C::sum1_at + slot * C::row + n);
        sum = sum + drawn * shared_[C::own1_at + (j - degree) * panel_units + slot];
        if (slot < unit_end - base) at4(hidden1() + (base + slot) * C::row + n) = relu(sum);
      }
      __syncwarp();
      for (int slot = unit - base + lane; slot < units_end - base; slot += 32) {
        float4& sum = at4(shared_ + C::sum2_at + slot * C::row + n);
        sum = add(sum, shared_ + C::own2_at + (unit - begin) * panel_units + slot, panel_units,
                  hidden1() + unit * C::row + n, unit_end - unit);
        if (slot < unit_end - base) at4(shared_ + C::hidden2_at + slot * C::row + n) = relu(sum);
      }
      __syncwarp();
      const int first = (degree + 1) * s_.forms;
      for (int q = (j + 1) * s_.forms + lane; q < end * s_.forms; q += 32) {
        float4& sum = at4(outputs() + q * C::row + n);
        sum = add(sum, shared_ + C::own3_at + (unit - begin) * panel_outputs + q - first, panel_outputs,
                  shared_ + C::hidden2_at + (unit - base) * C::row + n, unit_end - unit);
      }
      __syncwarp();
      unit = unit_end;
    }
  }

  __device__ static int thread() { return static_cast<int>(threadIdx.x); }

  const Inverse& s_;
  float* const shared_;
};

template <class C>
__global__ void __launch_bounds__(C::threads, 1) made_inverse_kernel(const Inverse s) {
  Block<C>(s).run();
}

constexpr int pack_size = 32, pack_rows = 8;

// to[t][column][row] = weight[t][row][column], rows in counting order, 0 where the mask forbids
__global__ void __launch_bounds__(pack_size* pack_rows)
    pack_kernel(const MaskedMatrix matrix, const int to_row, float* to) {
  float* const corner = reinterpret_cast<float*>(shared_memory);  // [pack_size][pack_size + 1]
  const Index row_tiles = (matrix.rows + pack_size - 1) / pack_size,
              column_tiles = (matrix.columns + pack_size - 1) / pack_size;
  const Index row = blockIdx.x % row_tiles * pack_size, column = blockIdx.x / row_tiles % column_tiles * pack_size;
  const Index t = blockIdx.x / row_tiles / column_tiles;
  MaskedMatrix step = matrix;
  step.weight += t * matrix.rows * matrix.columns;
  const int x = static_cast<int>(threadIdx.x) % pack_size, y = static_cast<int>(threadIdx.x) / pack_size;
  for (int r = y; r < pack_size; r += pack_rows) corner[r * (pack_size + 1) + x] = step.at(row + r, column + x);
  __syncthreads();
  for (int c = y; c < pack_size; c += pack_rows)
    if (column + c < matrix.columns && row + x < matrix.rows)
      to[(t * matrix.columns + column + c) * to_row + row + x] = corner[x * (pack_size + 1) + c];
}

struct InverseScratch {
  Tables tables;
  float *weight1, *weight2, *weight3, *activations;
};

template <class C>
Index shared_bytes(const Inverse& s) {
  const Index rows = C::in_shared ? s.activation_rows() : 0;
  return (C::activations_at + rows * C::row) * static_cast<Index>(sizeof(float));
}

Inverse inverse_of(const MADEFlow& s) {
  const int D = static_cast<int>(s.D), M = static_cast<int>(s.M), forms = s.scale ? 2 : 1;
  return {.N = s.N,
          .D = D,
          .M = M,
          .T = static_cast<int>(s.T),
          .forms = forms,
          .row2 = static_cast<int>(round_up(M, 4)),
          .row3 = static_cast<int>(round_up(D * forms, 4))};
}

template <class C>
bool fits(const Inverse& s) {
  return shared_bytes<C>(s) <= device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, op);
}

InverseScratch inverse_scratch(Arena& arena, const MADEFlow& s) {
  const Inverse i = inverse_of(s);
  const Index blocks = fits<Latency>(i) ? 0 : divide_up(s.N, LatencyInGlobal::samples);
  // The last row is read as if it were a panel longer.
  return {.tables = tables_in(arena, s),
          .weight1 = arena.floats(s.T * s.D * i.row2 + panel_units),
          .weight2 = arena.floats(s.T * s.M * i.row2 + panel_units),
          .weight3 = arena.floats(s.T * s.M * i.row3 + panel_units),
          .activations = arena.floats(blocks * i.activation_rows() * LatencyInGlobal::row)};
}

void pack(const MADEFlow& s, const MaskedMatrix& m, int to_row, float* to, Stream stream) {
  const Index tiles = s.T * divide_up(m.rows, pack_size) * divide_up(m.columns, pack_size);
  launch(op, pack_kernel, tiles, pack_size * pack_rows, pack_size * (pack_size + 1) * sizeof(float), stream, m, to_row,
         to);
}

template <class C>
void run(const Inverse& s, Stream stream) {
  launch(op, made_inverse_kernel<C>, divide_up(s.N, C::samples), C::threads, shared_bytes<C>(s), stream, s);
}

}  // namespace

Index made_flow_inverse_scratch(const MADEFlow& s) {
  Arena arena(nullptr);
  inverse_scratch(arena, s);
  return arena.used();
}

void made_flow_inverse(const MADEFlow& s, const MADEFlowParams& p, const float* eps, const float* hidden_context,
                       float* scratch, Stream stream, float* z) {
  Arena arena(scratch);
  const InverseScratch b = inverse_scratch(arena, s);
  fill_tables(op, s, p.degrees, b.tables, stream);
  const Layers layers = layers_of(s, p, b.tables, 0);
  Inverse i = inverse_of(s);
  pack(s, layers.layer1, i.row2, b.weight1, stream);
  pack(s, layers.layer2, i.row2, b.weight2, stream);
  pack(s, layers.layer3, i.row3, b.weight3, stream);
  i.weight1 = b.weight1, i.weight2 = b.weight2, i.weight3 = b.weight3;
  i.bias1 = p.bias1, i.bias2 = p.bias2, i.bias3 = p.bias3;
  i.below = b.tables.below, i.panel_end = b.tables.panel_end;
  i.eps = eps, i.hidden_context = hidden_context;
  i.z = z, i.activations = b.activations;
  const bool few = divide_up(s.N, Latency::samples) <= device_attribute(cudaDevAttrMultiProcessorCount, op);
  if (!fits<Latency>(i))
    run<LatencyInGlobal>(i, stream);
  else if (few || !fits<Throughput>(i))
    run<Latency>(i, stream);
  else
    run<Throughput>(i, stream);
}

}  // namespace vlae::cuda
