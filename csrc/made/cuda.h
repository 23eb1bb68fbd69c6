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

__host__ __device__ constexpr Index divide_up(Index a, Index b) { return (a + b - 1) / b; }
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
__device__ inline float4 operator*(float4 a, float b) { return {a.x * b, a.y * b, a.z * b, a.w * b}; }
__device__ inline float4 operator+(float4 a, float4 b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
__device__ inline float4 relu(float4 a) { return {relu(a.x), relu(a.y), relu(a.z), relu(a.w)}; }
__device__ inline float4& at4(float* p) { return *reinterpret_cast<float4*>(p); }
__device__ inline float4 at4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ inline float2 at2(const float* p) { return *reinterpret_cast<const float2*>(p); }

// A panel is what the inverse draws in one go: whole degrees, at least one.
constexpr int panel_units = 64;    // counted from the multiple of 4 at or below the first
constexpr int panel_degrees = 30;  // so that 64 outputs, counted so too, are all that a panel draws

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
  __device__ const float* at(Index row, Index column) const { return weight + stored(row) * columns + column; }
};
struct Layers {
  MaskedMatrix layer1, layer2, layer3;
};
Layers layers_of(const MADEFlow&, const MADEFlowParams&, const Tables&, Index t);

// --- The tiled product ---
//
// out[i][j] = sum over p of a(i, p) * b(j, p), in tiles of 64 columns j and 64 rows i, or 16 rows where there are too
// few tiles for the chip; 8 x 4 or 2 x 4 outputs a thread. The p in steps of 16, the next 16 on their way while these
// are multiplied. An output's sum has the same order in both. A Product says what there is to multiply and what comes
// of it:
//   Tile tile(Index block, int rows)          first row and column of a tile of so many rows, and its terms
//   const float* a(tile, i, p), b(tile, j, p) where an operand stands; read where it is live, and linear: steps of 8 in
//                                             i or j, and of 2, 8 and 16 in p, are the same everywhere
//   int2 a_terms(tile, i), b_terms(tile, j)   the p at which it is live, else it counts as 0
//   a_along_terms, b_along_terms              do neighbours in memory differ in p (or in i, j)?
//   void finish(tile, i, j, sums of (i, j..j + 3))  maybe outside; called by all threads of a warp together, the 8
//                                             threads of equal threadIdx.x / 8 being neighbours in j
constexpr int tile_columns = 64, tile_depth = 16, product_threads = 128;

struct Tile {
  Index t, row, column;
  int begin, end;
};

template <int rows>
struct Stage {
  float a[tile_depth][rows + 4], b[tile_depth][tile_columns + 4];
};

// What one thread carries of an operand to shared memory: `count` elements of every stage.
template <bool along_terms, int rows>
class Carrier {
 public:
  static constexpr int count = rows * tile_depth / product_threads;
  static constexpr int row_step = along_terms ? product_threads / tile_depth : 0;
  static constexpr int term_step = along_terms ? 0 : product_threads / rows;

  template <class At, class Terms>
  __device__ Carrier(Index first_row, const Tile& tile, const At& at, const Terms& terms)
      : row_(thread() % (along_terms ? product_threads : rows) / (along_terms ? tile_depth : 1)),
        term_(along_terms ? thread() % tile_depth : thread() / rows),
        at_(at(first_row + row_, tile.begin + term_)),
        step_(static_cast<int>(at(first_row + row_ + row_step, tile.begin + term_ + term_step) - at_)),
        stage_step_(static_cast<int>(at(first_row + row_, tile.begin + term_ + tile_depth) - at_)) {
#pragma unroll
    for (int r = 0; r < limits; ++r) {
      const int2 live = terms(first_row + row_ + r * row_step);
      begin_[r] = max(live.x, tile.begin);
      end_[r] = min(live.y, tile.end);
    }
  }

  // Begins to read the elements of the stage that starts with term p, and moves on.
  __device__ void fetch(int p) {
#pragma unroll
    for (int r = 0; r < count; ++r) {
      const int term = p + term_ + r * term_step, limit = along_terms ? r : 0;
      next_[r] = term >= begin_[limit] && term < end_[limit] ? at_[static_cast<Index>(r) * step_] : 0.0f;
    }
    at_ += stage_step_;
  }

  template <int width>
  __device__ void put(float (&stage)[tile_depth][width]) const {
#pragma unroll
    for (int r = 0; r < count; ++r) stage[term_ + r * term_step][row_ + r * row_step] = next_[r];
  }

 private:
  static constexpr int limits = along_terms ? count : 1;
  __device__ static int thread() { return static_cast<int>(threadIdx.x); }

  int row_, term_;
  const float* at_;
  int step_, stage_step_;
  int begin_[limits], end_[limits];
  float next_[count];
};

template <class Product, int thread_rows>
__global__ void __launch_bounds__(product_threads, 4) product_kernel(const Product product) {
  constexpr int rows = 8 * thread_rows, group = thread_rows < 4 ? thread_rows : 4;  // rows side by side in a thread
  struct alignas(4 * group) Group {
    float value[group];
  };
  Stage<rows>* const stages = reinterpret_cast<Stage<rows>*>(shared_memory);
  const Tile tile = product.tile(blockIdx.x, rows);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int row = warp / 2 * (rows / 2) + lane / 8 * group, column = warp % 2 * 32 + lane % 8 * 4;

  Carrier<Product::a_along_terms, rows> a(
      tile.row, tile, [&](Index i, int p) { return product.a(tile, i, p); },
      [&](Index i) { return product.a_terms(tile, i); });
  Carrier<Product::b_along_terms, tile_columns> b(
      tile.column, tile, [&](Index j, int p) { return product.b(tile, j, p); },
      [&](Index j) { return product.b_terms(tile, j); });
  const auto fetch = [&](int p) { a.fetch(p), b.fetch(p); };
  const auto put = [&](Stage<rows>& stage) { a.put(stage.a), b.put(stage.b); };

  float sums[thread_rows][4] = {};
  fetch(tile.begin);
  put(stages[0]);
  __syncthreads();
  int turn = 0;
  for (int begin = tile.begin; begin < tile.end; begin += tile_depth, turn ^= 1) {
    const Stage<rows>& stage = stages[turn];
    fetch(begin + tile_depth);
#pragma unroll
    for (int p = 0; p < tile_depth; ++p) {
      const float4 right = *reinterpret_cast<const float4*>(&stage.b[p][column]);
#pragma unroll
      for (int g = 0; g < thread_rows / group; ++g) {
        const Group left = *reinterpret_cast<const Group*>(&stage.a[p][row + g * 16]);
#pragma unroll
        for (int r = 0; r < group; ++r) {
          float (&sum)[4] = sums[g * group + r];
          sum[0] += left.value[r] * right.x;
          sum[1] += left.value[r] * right.y;
          sum[2] += left.value[r] * right.z;
          sum[3] += left.value[r] * right.w;
        }
      }
    }
    put(stages[turn ^ 1]);
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < thread_rows; ++r)
    product.finish(tile, tile.row + row + r % group + r / group * 16, tile.column + column, sums[r]);
}

// tiles(rows): how many there are, of so many rows each.
template <class Product, class Tiles>
void multiply(const char* op, const Product& product, const Tiles& tiles, Stream stream) {
  const bool small = tiles(64) < 2 * device_attribute(cudaDevAttrMultiProcessorCount, op);
  if (small)
    launch(op, product_kernel<Product, 2>, tiles(16), product_threads, 2 * sizeof(Stage<16>), stream, product);
  else
    launch(op, product_kernel<Product, 8>, tiles(64), product_threads, 2 * sizeof(Stage<64>), stream, product);
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
