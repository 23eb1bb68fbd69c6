// The tables that every function of the MADE flow needs, made on the device, and the density direction.
//
// A step is three masked products over all samples, each with what follows it: bias, context and ReLU, or shift, scale
// and log-determinant. Tiles of a weight matrix that are all masked are not multiplied.
//
// Floors of one pass (N = 4096, D = 64, M = 640, T = 4, mean only), on an H200 (67 TFLOP/s, 4.3 TB/s): 0.996 M live
// multiply-adds a sample are 8.2 GFLOP, 0.12 ms (the dense products 0.24 ms); with whole tiles 64 wide 1.15 M, 0.14 ms.
// The hidden layers are written and read once, 4 * 2 * 2 * N * M floats, 168 MB, 0.04 ms at most, as the L2 holds much
// of it; the weights are 7.9 MB. 12 products depend on each other.
#include <stdexcept>
#include <string>

#include "made/cuda.h"

namespace vlae::cuda {

void check(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that the next call does not find it
  throw std::runtime_error(std::string(op) + ": CUDA error " + std::to_string(static_cast<int>(status)) + " (" +
                           cudaGetErrorName(status) + "): " + cudaGetErrorString(status));
}

int device_attribute(cudaDeviceAttr attribute, const char* op) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), op);
  check(cudaDeviceGetAttribute(&value, attribute, device), op);
  return value;
}

namespace {

constexpr int table_threads = 1024;

// One block. `below` counts, and a unit's degree is read off it: sorted degrees come out as they are, and any others
// leave all tables within bounds.
__global__ void __launch_bounds__(table_threads)
    tables_kernel(const int D, const int M, const int forms, const std::int64_t* degrees, const Tables tables) {
  const int thread = static_cast<int>(threadIdx.x);
  for (int j = thread / 32; j <= D; j += table_threads / 32) {
    int count = 0;
    for (int u = thread % 32; u < M; u += 32) count += degrees[u] < j;
    for (int half = 16; half > 0; half /= 2) count += __shfl_xor_sync(~0u, count, half);
    if (thread % 32 == 0) tables.below[j] = j == 0 ? 0 : j == D ? M : count;
  }
  __syncthreads();
  const auto degree_of = [&](int u) {
    int low = 0, high = D;  // below[low] <= u < below[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (tables.below[middle] <= u ? low : high) = middle;
    }
    return low;
  };
  for (int j = thread; j < D; j += table_threads) {
    const int base = tables.below[j] / 4 * 4;
    int end = j + 1;
    while (end < D && end - j < panel_degrees && tables.below[end + 1] - base <= panel_units) ++end;
    tables.panel_end[j] = end;
    tables.first1[j] = tables.below[j];
    for (int form = 0; form < forms; ++form) tables.prefix3[j * forms + form] = tables.below[j];
  }
  for (int u = thread; u < M; u += table_threads) {
    const int degree = degree_of(u);
    tables.prefix1[u] = degree + 1;
    tables.prefix2[u] = tables.below[degree + 1];
    tables.first2[u] = tables.below[degree];
    tables.first3[u] = (degree + 1) * forms;
  }
}

struct ForwardProduct {
  static constexpr bool a_along_terms = true, b_along_terms = true;
  MaskedMatrix matrix;
  Index N;
  const float* x;

  // Tiles of many terms come first.
  __device__ Tile tile(Index block, int rows) const {
    const Index column_tiles = divide_up(matrix.rows, tile_columns), row_tiles = divide_up(N, rows);
    const Index column = (column_tiles - 1 - block / row_tiles) * tile_columns;
    const Index last = min(column + tile_columns, static_cast<Index>(matrix.rows)) - 1;
    return {0, block % row_tiles * rows, column, 0, matrix.prefix[last]};
  }
  __device__ const float* a(const Tile&, Index i, int p) const { return x + i * matrix.columns + p; }
  __device__ int2 a_terms(const Tile&, Index i) const { return {0, i < N ? matrix.columns : 0}; }
  __device__ const float* b(const Tile&, Index j, int p) const { return matrix.at(j, p); }
  __device__ int2 b_terms(const Tile&, Index j) const { return {0, j < matrix.rows ? matrix.prefix[j] : 0}; }
};

struct HiddenProduct : ForwardProduct {
  const float *bias, *context;  // context may be null
  Index context_row;
  float* out;

  __device__ void finish(const Tile&, Index i, Index j, const float (&sums)[4]) const {
    if (i >= N) return;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (j + c >= matrix.rows) return;
      const float added = bias[j + c] + (context ? context[i * context_row + j + c] : 0.0f);
      out[i * matrix.rows + j + c] = relu(sums[c] + added);
    }
  }
};

// next = reverse(y - mean), or reverse((y - mean) * exp(-scale))
template <bool with_scale>
struct OutputProduct : ForwardProduct {
  const float *bias, *y;
  float *next, *shrink, *scale_sums;  // the last two may be null

  __device__ void finish(const Tile&, Index i, Index j, const float (&sums)[4]) const {
    constexpr int forms = with_scale ? 2 : 1;
    const Index D = matrix.rows / forms;
    float scale_sum = 0.0f;
#pragma unroll
    for (int c = 0; c < 4; c += forms) {
      if (i >= N || j + c >= matrix.rows) break;
      const Index output = (j + c) / forms;
      float result = y[i * D + output] - (sums[c] + bias[output]);
      if constexpr (with_scale) {
        const float scale = sums[c + 1] + bias[D + output], factor = expf(-scale);
        result *= factor;
        scale_sum += scale;
        if (shrink) shrink[i * D + output] = factor;
      }
      next[i * D + D - 1 - output] = result;
    }
    if constexpr (with_scale)
      if (scale_sums) {
        for (int half = 4; half > 0; half /= 2) scale_sum += __shfl_xor_sync(~0u, scale_sum, half);
        const Index part = j / 32;
        if (i < N && threadIdx.x % 8 == 0) scale_sums[part * N + i] = scale_sum;
      }
  }
};

// log_det = -(the sum of all parts)
__global__ void log_det_kernel(const Index N, const Index parts, const float* scale_sums, float* log_det) {
  const Index n = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= N) return;
  float sum = 0.0f;
  for (Index part = 0; part < parts; ++part) sum += scale_sums[part * N + n];
  log_det[n] = -sum;
}

}  // namespace

Tables tables_in(Arena& arena, const MADEFlow& s) {
  const Index R = s.scale ? 2 * s.D : s.D;
  return {.below = arena.ints(s.D + 1),
          .panel_end = arena.ints(s.D),
          .prefix1 = arena.ints(s.M),
          .prefix2 = arena.ints(s.M),
          .prefix3 = arena.ints(R),
          .first1 = arena.ints(s.D),
          .first2 = arena.ints(s.M),
          .first3 = arena.ints(s.M)};
}

void fill_tables(const char* op, const MADEFlow& s, const std::int64_t* degrees, const Tables& tables, Stream stream) {
  launch(op, tables_kernel, 1, table_threads, 0, stream, static_cast<int>(s.D), static_cast<int>(s.M), s.scale ? 2 : 1,
         degrees, tables);
}

Layers layers_of(const MADEFlow& s, const MADEFlowParams& p, const Tables& tables, Index t) {
  const int D = static_cast<int>(s.D), M = static_cast<int>(s.M), forms = s.scale ? 2 : 1;
  return {.layer1 = {p.weight1 + t * M * D, M, D, 1, tables.prefix1, tables.first1},
          .layer2 = {p.weight2 + t * M * M, M, M, 1, tables.prefix2, tables.first2},
          .layer3 = {p.weight3 + t * D * forms * M, D * forms, M, forms, tables.prefix3, tables.first3}};
}

Index scale_parts(const MADEFlow& s) { return s.scale ? 2 * divide_up(2 * s.D, tile_columns) : 0; }

void run_step(const char* op, const MADEFlow& s, const MADEFlowParams& p, const Tables& tables, Index t, Index N,
              const float* hidden_context, const StepBuffers& b, Stream stream) {
  const auto [layer1, layer2, layer3] = layers_of(s, p, tables, t);
  const auto run = [&](const auto& product) {
    const Index column_tiles = divide_up(product.matrix.rows, tile_columns);
    multiply(op, product, [&](int rows) { return divide_up(N, rows) * column_tiles; }, stream);
  };
  const float* context = hidden_context ? hidden_context + t * s.M : nullptr;
  run(HiddenProduct{{layer1, N, b.y}, p.bias1 + t * s.M, context, s.T * s.M, b.hidden1});
  run(HiddenProduct{{layer2, N, b.hidden1}, p.bias2 + t * s.M, nullptr, 0, b.hidden2});
  const ForwardProduct outputs = {layer3, N, b.hidden2};
  const float* bias3 = p.bias3 + t * layer3.rows;
  if (s.scale)
    run(OutputProduct<true>{outputs, bias3, b.y, b.next, b.shrink, b.scale_sums});
  else
    run(OutputProduct<false>{outputs, bias3, b.y, b.next, nullptr, nullptr});
}

namespace {

struct ForwardScratch {
  Tables tables;
  float *hidden1, *hidden2, *y[2], *scale_sums;
};

ForwardScratch forward_scratch(Arena& arena, const MADEFlow& s) {
  const Index rows = s.N < chunk_size ? s.N : chunk_size;
  return {.tables = tables_in(arena, s),
          .hidden1 = arena.floats(rows * s.M),
          .hidden2 = arena.floats(rows * s.M),
          .y = {arena.floats(rows * s.D), arena.floats(rows * s.D)},
          .scale_sums = arena.floats(s.T * scale_parts(s) * rows)};
}

}  // namespace

Index made_flow_forward_scratch(const MADEFlow& s) {
  Arena arena(nullptr);
  forward_scratch(arena, s);
  return arena.used();
}

void made_flow_forward(const MADEFlow& s, const MADEFlowParams& p, const float* z, const float* hidden_context,
                       float* scratch, Stream stream, float* eps, float* log_det) {
  const char* op = "made_flow_forward";
  Arena arena(scratch);
  const ForwardScratch b = forward_scratch(arena, s);
  fill_tables(op, s, p.degrees, b.tables, stream);
  if (s.T == 0) check(cudaMemcpyAsync(eps, z, s.N * s.D * sizeof(float), cudaMemcpyDeviceToDevice, stream), op);
  for (Index begin = 0; begin < s.N; begin += chunk_size) {
    const Index N = s.N - begin < chunk_size ? s.N - begin : chunk_size, parts = scale_parts(s);
    const float* y = z + begin * s.D;
    for (Index t = 0; t < s.T; ++t) {
      float* next = t == s.T - 1 ? eps + begin * s.D : b.y[t % 2];
      run_step(op, s, p, b.tables, t, N, hidden_context ? hidden_context + begin * s.T * s.M : nullptr,
               {y, b.hidden1, b.hidden2, next, nullptr, s.scale ? b.scale_sums + t * parts * N : nullptr}, stream);
      y = next;
    }
    launch(op, log_det_kernel, divide_up(N, 128), 128, 0, stream, N, s.T * parts, b.scale_sums, log_det + begin);
  }
}

}  // namespace vlae::cuda
