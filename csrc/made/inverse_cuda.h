// One block of the MADE flow's inverse; made_inverse.cu says how it works.
#pragma once
#include "made/cuda.h"

#ifdef __CUDACC__
#include <cuda_pipeline.h>
#endif

namespace vlae::cuda {

constexpr int classes = 8;          // the terms p of a dense product with equal p % 8 are summed first
constexpr int summed_together = 4;  // and then the classes c with equal c % 4
constexpr int draw_samples = 4;     // of a warp, in a float4
constexpr int draw_ahead = 4;       // terms that a draw has on their way
constexpr int warp_units = 32;      // of the dense product
constexpr int panel_outputs = 64;   // that own3 has

template <int groups_, int group_samples_, int class_warps_, int ahead_, bool in_shared_>
struct Config {
  static constexpr int groups = groups_;                // of samples: lanes of a warp that share the units
  static constexpr int group_samples = group_samples_;  // of a lane
  static constexpr int class_warps = class_warps_;      // warps that share the classes of a dense product
  static constexpr int ahead = ahead_;                  // terms whose weights are on their way to a warp
  static constexpr bool in_shared = in_shared_;         // activations; else in global memory
  static constexpr int samples = groups * group_samples;
  static constexpr int row = samples + (samples > 4 ? 4 : 0);  // floats between rows: another bank for the next
  static constexpr int threads = 32 * class_warps * (panel_units / warp_units);
  // Parts of shared memory, in floats.
  static constexpr int partial_at = 0;                                          // [class_warps][panel_units][row]
  static constexpr int sum1_at = partial_at + class_warps * panel_units * row;  // [panel_units][row] and so on
  static constexpr int sum2_at = sum1_at + panel_units * row;
  static constexpr int hidden2_at = sum2_at + panel_units * row;
  // The panel's own weights: [panel_degrees][panel_units], [panel_units][panel_units], [panel_units][panel_outputs].
  static constexpr int own1_at = hidden2_at + panel_units * row;
  static constexpr int own2_at = own1_at + panel_degrees * panel_units;
  static constexpr int own3_at = own2_at + panel_units * panel_units;
  static constexpr int activations_at = own3_at + panel_units * panel_outputs;
};
using Throughput = Config<4, 8, 4, 4, true>;
using SmallThroughput = Config<2, 8, 4, 4, true>;
using Latency = Config<1, 4, 8, 8, true>;
using LatencyInGlobal = Config<1, 4, 4, 8, false>;

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

// The weights of `count` neighbouring units, from an address that is a multiple of as many floats.
template <int count>
__device__ inline void load_weights(const float* from, bool live, float (&to)[count]) {
  struct alignas(count * sizeof(float)) Weights {
    float value[count];
  };
  if (live) {
    const Weights weights = *reinterpret_cast<const Weights*>(from);
#pragma unroll
    for (int i = 0; i < count; ++i) to[i] = weights.value[i];
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) to[i] = 0.0f;
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
    const float *const bias1 = s_.bias1 + t * s_.M, *const bias2 = s_.bias2 + t * s_.M;
    for (int first = base; first < units_end; first += panel_units) {
      const auto live = [&](int slot) { return first + slot >= begin && first + slot < units_end; };
      dense(
          weight1 + first, s_.row2, z(), known,
          [&](int slot, int n) {
            if (!live(slot)) return 0.0f;
            const bool with_context = s_.hidden_context && sample(n) < s_.N;
            return bias1[first + slot] +
                   (with_context ? s_.hidden_context[(sample(n) * s_.T + t) * s_.M + first + slot] : 0.0f);
          },
          [&](int slot, int n, float sum) {
            if (!live(slot)) return;
            if (crowded)
              hidden1()[(first + slot) * C::row + n] = relu(sum);
            else
              shared_[C::sum1_at + slot * C::row + n] = sum;
          });
    }
    __pipeline_wait_prior(0);
    int first = base;
    do {  // once for a panel without units, too
      dense(
          weight2 + first, s_.row2, hidden1(), known_units,
          [&](int slot, int) { return first + slot < units_end ? bias2[first + slot] : 0.0f; },
          [&](int slot, int n, float sum) {
            if (crowded)
              shared_[C::hidden2_at + slot * C::row + n] = relu(sum);
            else
              shared_[C::sum2_at + slot * C::row + n] = sum;
          });
      if (!crowded) {
        if (thread() / 32 * draw_samples < C::samples) draw_degrees(degree, end, base);
        __syncthreads();
      }
      const int from = max(first, begin), count = min(first + panel_units, units_end) - from;
      for (int q = end * s_.forms / 4 * 4; q < s_.outputs() && count > 0; q += panel_units)
        dense(
            weight3 + static_cast<Index>(from) * s_.row3 + q, s_.row3,
            shared_ + C::hidden2_at + (from - first) * C::row, count,
            [&](int slot, int n) { return q + slot < s_.outputs() ? outputs()[(q + slot) * C::row + n] : 0.0f; },
            [&](int slot, int n, float sum) {
              if (q + slot < s_.outputs()) outputs()[(q + slot) * C::row + n] = sum;
            });
      first += panel_units;
    } while (first < units_end);
  }

  // Begins to copy the weights among the panel's own inputs, units and outputs. Slots are units counted from `base`.
  __device__ void fetch_own_weights(const float* weight1, const float* weight2, const float* weight3, int degree,
                                    int end, int base) const {
    const int begin = s_.below[degree], units_end = s_.below[end], first = first_output(degree);
    fetch_rows(weight1 + base, s_.row2, degree, end, panel_units, C::own1_at);
    fetch_rows(weight2 + base, s_.row2, begin, units_end, panel_units, C::own2_at);
    fetch_rows(weight3 + first, s_.row3, begin, units_end, end * s_.forms - first, C::own3_at);
    __pipeline_commit();
  }
  // `columns` (rounded up to 4) of the rows begin..end, to shared memory with rows of 64.
  __device__ void fetch_rows(const float* from, int row, int begin, int end, int columns, int to) const {
    for (int i = thread(); i < (end - begin) * 16; i += C::threads)
      if (i % 16 * 4 < columns)
        __pipeline_memcpy_async(shared_ + to + i * 4, from + static_cast<Index>(begin + i / 16) * row + i % 16 * 4, 16);
  }
  // What own3 begins with in a panel that begins with this degree.
  __device__ int first_output(int degree) const { return degree * s_.forms / 4 * 4; }

  // finish(slot, sample, start(slot, sample) + sum) for the sums over p < terms of weight[p * stride + slot] *
  // x[p * row + sample]; slots 0..63. weight is a multiple of 16 bytes. Ends with a barrier.
  template <class Start, class Finish>
  __device__ void dense(const float* weight, int stride, const float* x, int terms, const Start& start,
                        const Finish& finish) const {
    constexpr int halves = panel_units / warp_units;
    const int warp = thread() / 32, lane = thread() % 32;
    const int slot = warp % halves * warp_units + lane / C::groups * C::groups;
    const int first_sample = lane % C::groups * C::group_samples, first_class = warp / halves;

    // Class after class in batches of C::ahead terms; p is the first of the batch that is fetched next.
    constexpr int batch = classes * C::ahead;
    const int padded = static_cast<int>(round_up(terms, batch));
    float fetched[C::ahead][C::groups];
    int p = first_class;
    const auto fetch = [&] {
#pragma unroll
      for (int i = 0; i < C::ahead; ++i)
        load_weights(weight + static_cast<Index>(p + i * classes) * stride + slot, p + i * classes < terms, fetched[i]);
    };
    float total[C::groups][C::group_samples] = {}, sum[C::groups][C::group_samples] = {};
    if (first_class == 0)
#pragma unroll
      for (int u = 0; u < C::groups; ++u)
#pragma unroll
        for (int n = 0; n < C::group_samples; ++n) total[u][n] = start(slot + u, first_sample + n);
    fetch();
    for (int turn = padded / batch * (classes / C::class_warps); turn > 0; --turn) {
      float now[C::ahead][C::groups];
#pragma unroll
      for (int i = 0; i < C::ahead; ++i)
#pragma unroll
        for (int u = 0; u < C::groups; ++u) now[i][u] = fetched[i][u];
      const int current = p;
      p += batch;
      const bool class_ends = p >= padded;
      if (class_ends) p += C::class_warps - padded;
      if (turn > 1) fetch();
#pragma unroll
      for (int i = 0; i < C::ahead; ++i) {
        const float* const values = x + min(current + i * classes, terms - 1) * C::row + first_sample;
#pragma unroll
        for (int n = 0; n < C::group_samples; n += 4) {
          const float4 v = at4(values + n);
#pragma unroll
          for (int u = 0; u < C::groups; ++u) {
            sum[u][n] += now[i][u] * v.x;
            sum[u][n + 1] += now[i][u] * v.y;
            sum[u][n + 2] += now[i][u] * v.z;
            sum[u][n + 3] += now[i][u] * v.w;
          }
        }
      }
      if (class_ends)
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
#pragma unroll
      for (int c = 0; c < summed_together; ++c) {
        float some = 0.0f;
#pragma unroll
        for (int w = c; w < C::class_warps; w += summed_together)
          some += partial[(w * panel_units + unit) * C::row + n];
        all += some;
      }
      finish(unit, n, all);
    }
    __syncthreads();
  }

  __device__ float4 draw(float4 eps, float4 mean, float4 scale) const {
    if (s_.forms == 2)
      eps = {eps.x * expf(scale.x), eps.y * expf(scale.y), eps.z * expf(scale.z), eps.w * expf(scale.w)};
    return eps + mean;
  }

  __device__ void draw_alone(int j) const {
    const int n = thread() * draw_samples;
    if (n >= C::samples) return;
    const float* const mean = outputs() + j * s_.forms * C::row + n;
    float4& drawn = at4(z() + j * C::row + n);
    drawn = draw(drawn, at4(mean), at4(mean + (s_.forms - 1) * C::row));
  }

  // A warp's way through a panel with 4 samples. A lane has the sums of two neighbouring slots, and of two outputs
  // counted from the first that own3 has.
  __device__ void draw_degrees(int degree, int end, int base) const {
    const int lane = thread() % 32, n = thread() / 32 * draw_samples;
    const int begin = s_.below[degree], first = first_output(degree);
    float4 sum1[2], sum2[2], sum3[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = 2 * lane + i;
      sum1[i] = at4(shared_ + C::sum1_at + slot * C::row + n);
      sum2[i] = at4(shared_ + C::sum2_at + slot * C::row + n);
      sum3[i] = first + slot < end * s_.forms ? at4(outputs() + (first + slot) * C::row + n) : float4{};
    }
    // Stores ReLU of the sums of units unit..unit_end, slots counted from `base`.
    const auto store = [&](const float4(&sum)[2], float* to, int unit, int unit_end) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (base + 2 * lane + i >= unit && base + 2 * lane + i < unit_end)
          at4(to + (2 * lane + i) * C::row) = relu(sum[i]);
    };
    int unit = begin;  // the first of degree j
    for (int j = degree; j < end; ++j) {
      const int unit_end = s_.below[j + 1], count = unit_end - unit, q = j * s_.forms - first;
      const float2 weight = at2(shared_ + C::own1_at + (j - degree) * panel_units + 2 * lane);
      const float4 eps = at4(z() + j * C::row + n);
      const float4 drawn = draw(eps, from_lane(q % 2 ? sum3[1] : sum3[0], q / 2), from_lane(sum3[1], q / 2));
      sum1[0] = sum1[0] + drawn * weight.x;
      sum1[1] = sum1[1] + drawn * weight.y;
      store(sum1, hidden1() + base * C::row + n, unit, unit_end);
      __syncwarp();
      if (lane == 0) at4(z() + j * C::row + n) = drawn;
      add_products(sum2, shared_ + C::own2_at + (unit - begin) * panel_units + 2 * lane, hidden1() + unit * C::row + n,
                   count);
      store(sum2, shared_ + C::hidden2_at + n, unit, unit_end);
      __syncwarp();
      if (j + 1 < end)
        add_products(sum3, shared_ + C::own3_at + (unit - begin) * panel_outputs + 2 * lane,
                     shared_ + C::hidden2_at + (unit - base) * C::row + n, count);
      unit = unit_end;
    }
  }

  __device__ static float4 from_lane(float4 v, int lane) {
    return {__shfl_sync(~0u, v.x, lane), __shfl_sync(~0u, v.y, lane), __shfl_sync(~0u, v.z, lane),
            __shfl_sync(~0u, v.w, lane)};
  }

  // sum[i] += the sum over p < count of x[p * row] * weight[p * 64 + i]
  __device__ static void add_products(float4 (&sum)[2], const float* weight, const float* x, int count) {
    float4 next_x[draw_ahead];
    float2 next_weight[draw_ahead];
    const auto fetch = [&](int begin) {
#pragma unroll
      for (int i = 0; i < draw_ahead; ++i) {
        const int p = begin + i;
        next_x[i] = p < count ? at4(x + p * C::row) : float4{0.0f, 0.0f, 0.0f, 0.0f};
        next_weight[i] = p < count ? at2(weight + p * 64) : float2{0.0f, 0.0f};
      }
    };
    fetch(0);
    for (int begin = 0; begin < count; begin += draw_ahead) {
      float4 now_x[draw_ahead];
      float2 now_weight[draw_ahead];
#pragma unroll
      for (int i = 0; i < draw_ahead; ++i) now_x[i] = next_x[i], now_weight[i] = next_weight[i];
      fetch(begin + draw_ahead);
#pragma unroll
      for (int i = 0; i < draw_ahead; ++i) {
        sum[0] = sum[0] + now_x[i] * now_weight[i].x;
        sum[1] = sum[1] + now_x[i] * now_weight[i].y;
      }
    }
  }

  __device__ static int thread() { return static_cast<int>(threadIdx.x); }

  const Inverse& s_;
  float* const shared_;
};

}  // namespace vlae::cuda
