// Gradients of the density direction, some thousands of samples at a time: forward with all activations kept, back step
// after step, then every weight gradient as a product over the samples. Masked tiles are multiplied nowhere.
//
// Floors: forward and twice as much again, 0.36 ms where made.cu names 0.12 ms. The activations and their gradients,
// 4 * T * N * M floats, are written once and read twice.
#include "made/cuda.h"

namespace vlae::cuda {
namespace {

// dx = dy weight, with what follows it: times ReLU's slope where the activation is given, plus `direct` where that is.
struct InputGradientProduct {
  static constexpr bool a_along_terms = true, b_along_terms = false;
  MaskedMatrix matrix;
  Index N;
  const float *dy, *activation, *direct;  // the last two may be null
  float *dx, *copy;                       // copy may be null; its rows lie copy_row apart
  Index copy_row;

  __device__ Tile tile(Index block, int rows) const {
    const Index column_tiles = divide_up(matrix.columns, tile_columns);
    const Index column = block % column_tiles * tile_columns;
    return {0, block / column_tiles * rows, column, matrix.first[column], matrix.rows};
  }
  __device__ const float* a(const Tile&, Index i, int p) const { return dy + i * matrix.rows + matrix.stored(p); }
  __device__ int2 a_terms(const Tile&, Index i) const { return {0, i < N ? matrix.rows : 0}; }
  __device__ const float* b(const Tile&, Index j, int p) const { return matrix.at(p, j); }
  __device__ int2 b_terms(const Tile&, Index j) const {
    return j < matrix.columns ? int2{matrix.first[j], matrix.rows} : int2{0, 0};
  }
  __device__ void finish(const Tile&, Index i, Index j, const float (&sums)[4]) const {
    if (i >= N) return;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (j + c >= matrix.columns) return;
      const Index at = i * matrix.columns + j + c;
      float gradient = sums[c];
      if (activation) gradient = activation[at] > 0.0f ? gradient : 0.0f;
      if (direct) gradient += direct[at];
      dx[at] = gradient;
      if (copy) copy[i * copy_row + j + c] = gradient;
    }
  }
};

// dweight = dy^T x for all steps t in one launch; whatever has an axis of T is one array after the other.
struct WeightGradientProduct {
  static constexpr bool a_along_terms = false, b_along_terms = false;
  MaskedMatrix matrix;  // of any step: its weights are not read
  Index N;
  const float *dy, *first_x, *x;  // x of step 0, and of the steps from 1 on
  float* dweight;
  bool add;  // to what is there

  __device__ Tile tile(Index block, int rows) const {
    const Index row_tiles = divide_up(matrix.rows, rows), column_tiles = divide_up(matrix.columns, tile_columns);
    const Index row = block / column_tiles % row_tiles * rows, column = block % column_tiles * tile_columns;
    const bool live = column < matrix.prefix[min(row + rows, static_cast<Index>(matrix.rows)) - 1];
    return {block / column_tiles / row_tiles, row, column, 0, live ? static_cast<int>(N) : 0};
  }
  __device__ const float* a(const Tile& tile, Index i, int p) const {
    return dy + (tile.t * N + p) * matrix.rows + matrix.stored(i);
  }
  __device__ int2 a_terms(const Tile& tile, Index i) const { return {0, i < matrix.rows ? tile.end : 0}; }
  __device__ const float* b(const Tile& tile, Index j, int p) const {
    return (tile.t == 0 ? first_x : x + (tile.t - 1) * N * matrix.columns) + p * matrix.columns + j;
  }
  __device__ int2 b_terms(const Tile& tile, Index j) const { return {0, j < matrix.columns ? tile.end : 0}; }
  __device__ void finish(const Tile& tile, Index i, Index j, const float (&sums)[4]) const {
    if (i >= matrix.rows) return;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (j + c >= matrix.columns) return;
      float& out = dweight[(tile.t * matrix.rows + matrix.stored(i)) * matrix.columns + j + c];
      const float gradient = j + c < matrix.prefix[i] ? sums[c] : 0.0f;
      out = add ? out + gradient : gradient;
    }
  }
};

constexpr int sum_columns = 32, sum_rows = 8;

// dbias[t][c] = the sum over samples of dy[t][n][c]
__global__ void __launch_bounds__(sum_columns* sum_rows)
    bias_gradient_kernel(const Index N, const Index columns, const bool add, const float* dy, float* dbias) {
  float* const parts = reinterpret_cast<float*>(shared_memory);  // [sum_rows][sum_columns]
  const Index tiles = (columns + sum_columns - 1) / sum_columns, t = blockIdx.x / tiles;
  const int lane = static_cast<int>(threadIdx.x) % sum_columns, row = static_cast<int>(threadIdx.x) / sum_columns;
  const Index column = blockIdx.x % tiles * sum_columns + lane;
  float sum = 0.0f;
  if (column < columns)
    for (Index n = row; n < N; n += sum_rows) sum += dy[(t * N + n) * columns + column];
  parts[threadIdx.x] = sum;
  __syncthreads();
  if (row != 0 || column >= columns) return;
  for (int r = 1; r < sum_rows; ++r) sum += parts[r * sum_columns + lane];
  dbias[t * columns + column] = add ? dbias[t * columns + column] + sum : sum;
}

// From dresult, the gradient of a step's result, to those of its outputs, dout [N, R], and the direct part of that of
// its argument. shrink and dlog_det are null without a scale.
__global__ void transform_backward_kernel(const Index N, const Index D, const float* result, const float* shrink,
                                          const float* dlog_det, const float* dresult, float* dout, float* direct) {
  const Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N * D) return;
  const Index n = i / D, j = i % D, reversed = n * D + D - 1 - j;
  float gradient = dresult[reversed];
  if (shrink) {
    dout[n * 2 * D + D + j] = -(gradient * result[reversed] + dlog_det[n]);
    gradient *= shrink[i];
  }
  dout[n * (shrink ? 2 : 1) * D + j] = -gradient;
  direct[i] = gradient;
}

// Rows of all samples of the chunk, for every step.
struct Tape {
  Tables tables;
  float* y;              // results
  float *shrink, *dout;  // shrink: with a scale alone
  float *hidden1, *hidden2, *dhidden1, *dhidden2;
  float *direct, *dresult;  // for one step
};

Tape tape_in(Arena& arena, const MADEFlow& s) {
  const Index rows = s.N < chunk_size ? s.N : chunk_size, narrow = rows * s.D, wide = rows * s.M;
  return {.tables = tables_in(arena, s),
          .y = arena.floats(s.T * narrow),
          .shrink = arena.floats(s.scale ? s.T * narrow : 0),
          .dout = arena.floats(s.T * narrow * (s.scale ? 2 : 1)),
          .hidden1 = arena.floats(s.T * wide),
          .hidden2 = arena.floats(s.T * wide),
          .dhidden1 = arena.floats(s.T * wide),
          .dhidden2 = arena.floats(s.T * wide),
          .direct = arena.floats(narrow),
          .dresult = arena.floats(narrow)};
}

}  // namespace

Index made_flow_backward_scratch(const MADEFlow& s) {
  Arena arena(nullptr);
  tape_in(arena, s);
  return arena.used();
}

void made_flow_backward(const MADEFlow& s, const MADEFlowParams& p, const float* z, const float* hidden_context,
                        const float* deps, const float* dlog_det, float* scratch, Stream stream, float* dz,
                        float* dhidden_context, const MADEFlowGrads& grads) {
  const char* op = "made_flow_forward_backward";
  Arena arena(scratch);
  const Tape tape = tape_in(arena, s);
  fill_tables(op, s, p.degrees, tape.tables, stream);
  if (s.T == 0) {
    check(cudaMemcpyAsync(dz, deps, s.N * s.D * sizeof(float), cudaMemcpyDeviceToDevice, stream), op);
    return;
  }
  Index begin = 0;
  do {  // once for an empty batch, whose gradients are 0
    const Index N = s.N - begin < chunk_size ? s.N - begin : chunk_size, first = begin * s.D;
    const Index narrow = N * s.D, wide = N * s.M, R = s.scale ? 2 * s.D : s.D;
    for (Index t = 0; t < s.T; ++t)
      run_step(op, s, p, tape.tables, t, N, hidden_context ? hidden_context + begin * s.T * s.M : nullptr,
               {.y = t == 0 ? z + first : tape.y + (t - 1) * narrow,
                .hidden1 = tape.hidden1 + t * wide,
                .hidden2 = tape.hidden2 + t * wide,
                .next = tape.y + t * narrow,
                .shrink = s.scale ? tape.shrink + t * narrow : nullptr,
                .scale_sums = nullptr},
               stream);

    const float* dresult = deps + first;
    for (Index t = s.T - 1; t >= 0; --t) {
      const Layers layers = layers_of(s, p, tape.tables, t);
      float *dhidden1 = tape.dhidden1 + t * wide, *dhidden2 = tape.dhidden2 + t * wide;
      float *dout = tape.dout + t * N * R, *dy = t == 0 ? dz + first : tape.dresult;
      const auto run = [&](const InputGradientProduct& product) {
        const Index column_tiles = divide_up(product.matrix.columns, tile_columns);
        multiply(op, product, [&](int rows) { return divide_up(N, rows) * column_tiles; }, stream);
      };
      launch(op, transform_backward_kernel, divide_up(narrow, 256), 256, 0, stream, N, s.D, tape.y + t * narrow,
             s.scale ? tape.shrink + t * narrow : nullptr, s.scale ? dlog_det + begin : nullptr, dresult, dout,
             tape.direct);
      run({layers.layer3, N, dout, tape.hidden2 + t * wide, nullptr, dhidden2, nullptr, 0});
      run({layers.layer2, N, dhidden2, tape.hidden1 + t * wide, nullptr, dhidden1,
           dhidden_context ? dhidden_context + (begin * s.T + t) * s.M : nullptr, s.T * s.M});
      run({layers.layer1, N, dhidden1, nullptr, tape.direct, dy, nullptr, 0});
      dresult = dy;
    }

    const auto weight_gradient = [&](const MaskedMatrix& m, const float* dy, const float* first_x, const float* x,
                                     float* dweight) {
      const WeightGradientProduct product = {m, N, dy, first_x, x, dweight, begin > 0};
      const Index column_tiles = divide_up(m.columns, tile_columns);
      multiply(op, product, [&](int rows) { return s.T * divide_up(m.rows, rows) * column_tiles; }, stream);
    };
    const auto bias_gradient = [&](Index columns, const float* dy, float* dbias) {
      launch(op, bias_gradient_kernel, s.T * divide_up(columns, sum_columns), sum_columns * sum_rows,
             sum_columns * sum_rows * sizeof(float), stream, N, columns, begin > 0, dy, dbias);
    };
    const Layers layers = layers_of(s, p, tape.tables, 0);
    weight_gradient(layers.layer1, tape.dhidden1, z + first, tape.y, grads.weight1);
    weight_gradient(layers.layer2, tape.dhidden2, tape.hidden1, tape.hidden1 + wide, grads.weight2);
    weight_gradient(layers.layer3, tape.dout, tape.hidden2, tape.hidden2 + wide, grads.weight3);
    bias_gradient(s.M, tape.dhidden1, grads.bias1);
    bias_gradient(s.M, tape.dhidden2, grads.bias2);
    bias_gradient(R, tape.dout, grads.bias3);
    begin += chunk_size;
  } while (begin < s.N);
}

}  // namespace vlae::cuda
