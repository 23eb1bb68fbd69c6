// What the MADE flow's CUDA functions share: launches, the tables made of the degrees, and the one tiled product.
//
// As in made.h, the live inputs of every row of a weight matrix are a prefix, and no prefix is shorter than the one
// before. Rows of the third layer are taken in the order mean 0, scale 0, mean 1, scale 1, ..., which keeps that true
// with a scale, and puts the two next to each other.
#pragma once
#include "vlae_cuda.h"

namespace vlae::cuda {

void check(cudaError_t status, const char* op);
int device_attribute(cudaDeviceAttr attribute, const char* op);

constexpr int unasked_shared = 48 << 10;  // bytes of dynamic shared memory that every kernel may use

template <class... Parameters, class... Arguments>
void launch(const char* op, void (*kernel)(Parameters...), Index blocks, int threads, Index shared_bytes, Stream stream,
            const Arguments&... arguments) {
  if (blocks == 0) return;
  if (shared_bytes > unasked_shared)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
          op);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), op);
}

inline Index divide_up(Index a, Index b) { return (a + b - 1) / b; }
__host__ __device__ constexpr Index round_up(Index a, Index b) { return (a + b - 1) / b * b; }

// Hands out parts of the caller's scratch; without an address it only counts.
class Arena {
 public:
  explicit Arena(float* memory) : memory_(memory) {}
  float* floats(Index count) {
    float* const part = memory_ ? memory_ + used_ : nullptr;
    used_ += round_up(count, 32);
    return part;
  }
  int* ints(Index count) { return reinterpret_cast<int*>(floats(count)); }
  Index used() const { return used_; }

 private:
  float* memory_;
  Index used_ = 0;
};

extern __shared__ float4 shared_memory[];

__device__ inline float relu(float x) { return x < 0.0f ? 0.0f : x; }  // keeps NaN

// A panel is what the inverse draws in one go: whole degrees, at least one.
constexpr int panel_units = 64;    // counted from the multiple of 4 at or below the first
constexpr int panel_degrees = 32;  // so that at most 64 outputs are drawn in a panel

// Made on the device from the degrees; outputs are counted as said above, there are R = D or 2D.
struct Tables {
  int* below;      // [D + 1] units of degree < j: those that output j sees
  int* panel_end;  // [D] first degree behind the panel that begins with degree j
  int* prefix1;    // [M] inputs that a unit sees
  int* prefix2;    // [M] units that a unit of the second layer sees
  int* prefix3;    // [R] units that an output sees
  int* first1;     // [D] first unit that sees an input
  int* first2;     // [M] first unit of the second layer that sees a unit
  int* first3;     // [M] first output that sees a unit
};
Tables tables_in(Arena&, const MADEFlow&);
void fill_tables(const char* op, const MADEFlow&, const std::int64_t* degrees, const Tables&, Stream);

// weight[rows, columns] with its mask; `forms` rows of the matrix (1 or 2) belong to each of rows / forms outputs.
struct MaskedMatrix {
  const float* weight;
  int rows, columns, forms;
  const int* prefix;  // [rows] in counting order
  const int* first;   // [columns]

  // Where a row stands in memory.
  __device__ Index stored(Index row) const { return forms == 1 ? row : row / 2 + row % 2 * (rows / 2); }
  // 0 where the mask forbids, and outside.
  __device__ float at(Index row, Index column) const {
    return row < rows && column < prefix[row] ? weight[stored(row) * columns + column] : 0.0f;
  }
};
struct Layers {
  MaskedMatrix layer1, layer2, layer3;
};
Layers layers_of(const MADEFlow&, const MADEFlowParams&, const Tables&, Index t);

// --- The tiled product ---
//
// out[i][j] = sum over p of a(i, p) * b(j, p), 64 x 64 outputs a block, 8 x 4 a thread; the p in steps of 16, the next
// 16 on their way while these are multiplied. A Product says which tiles and terms there are and what becomes of sums:
//   Tile tile(Index block)                    first row and column of a tile, and its terms
//   float a(Index i, Index p), b(Index j, Index p)      0 outside
//   a_along_terms, b_along_terms              do neighbours in memory differ in p (or in i, j)?
//   void finish(const Tile&, Index i, Index j, const float (&sums)[4])      of (i, j..j + 3), maybe outside; called by
//                                             all threads of a warp together, 8 lanes (lane % 8) to a row
constexpr int tile_size = 64, tile_depth = 16, product_threads = 128;

struct Tile {
  Index t, row, column;
  int begin, end;
};

struct Stage {
  float a[tile_depth][tile_size + 4], b[tile_depth][tile_size + 4];
};
constexpr Index product_shared = 2 * sizeof(Stage);

// Element r of those that this thread carries: i and p within a stage.
template <bool along_terms>
__device__ inline int2 carried(int r) {
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (along_terms)
    return {thread / tile_depth + r * (product_threads / tile_depth), thread % tile_depth};
  else
    return {thread % tile_size, thread / tile_size + r * (product_threads / tile_size)};
}
constexpr int carried_count = tile_size * tile_depth / product_threads;

template <class Product>
__global__ void __launch_bounds__(product_threads) product_kernel(const Product product) {
  Stage* const stages = reinterpret_cast<Stage*>(shared_memory);
  const Tile tile = product.tile(blockIdx.x);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = warp / 2 * 32 + lane / 8 * 4, column = warp % 2 * 32 + lane % 8 * 4;

  float next_a[carried_count], next_b[carried_count];
  const auto fetch = [&](int begin) {
#pragma unroll
    for (int r = 0; r < carried_count; ++r) {
      const int2 a = carried<Product::a_along_terms>(r), b = carried<Product::b_along_terms>(r);
      next_a[r] = begin + a.y < tile.end ? product.a(tile, tile.row + a.x, begin + a.y) : 0.0f;
      next_b[r] = begin + b.y < tile.end ? product.b(tile, tile.column + b.x, begin + b.y) : 0.0f;
    }
  };
  const auto put = [&](Stage& stage) {
#pragma unroll
    for (int r = 0; r < carried_count; ++r) {
      const int2 a = carried<Product::a_along_terms>(r), b = carried<Product::b_along_terms>(r);
      stage.a[a.y][a.x] = next_a[r];
      stage.b[b.y][b.x] = next_b[r];
    }
  };

  float sums[8][4] = {};
  fetch(tile.begin);
  put(stages[0]);
  __syncthreads();
  int turn = 0;
  for (int begin = tile.begin; begin < tile.end; begin += tile_depth, turn ^= 1) {
    const Stage& stage = stages[turn];
    fetch(begin + tile_depth);
#pragma unroll
    for (int p = 0; p < tile_depth; ++p) {
      const float4 low = *reinterpret_cast<const float4*>(&stage.a[p][row]);
      const float4 high = *reinterpret_cast<const float4*>(&stage.a[p][row + 16]);
      const float4 b = *reinterpret_cast<const float4*>(&stage.b[p][column]);
      const float a[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int r = 0; r < 8; ++r) {
        sums[r][0] += a[r] * b.x;
        sums[r][1] += a[r] * b.y;
        sums[r][2] += a[r] * b.z;
        sums[r][3] += a[r] * b.w;
      }
    }
    put(stages[turn ^ 1]);
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < 8; ++r) product.finish(tile, tile.row + row + r % 4 + r / 4 * 16, tile.column + column, sums[r]);
}

template <class Product>
void multiply(const char* op, const Product& product, Index tiles, Stream stream) {
  launch(op, product_kernel<Product>, tiles, product_threads, product_shared, stream, product);
}

// What one flow step makes of N samples, and where: rows of D or M floats.
struct StepBuffers {
  const float* y;
  float *hidden1, *hidden2;
  float* next;        // the step's result, reversed
  float* shrink;      // exp(-scale) or null
  float* scale_sums;  // [parts, N] sums of the scale over parts of the outputs, or null
};
Index scale_parts(const MADEFlow&);
void run_step(const char* op, const MADEFlow&, const MADEFlowParams&, const Tables&, Index t, Index N,
              const float* hidden_context, const StepBuffers&, Stream);

constexpr Index chunk_size = 8192;  // samples whose activations are kept at a time

}  // namespace vlae::cuda
