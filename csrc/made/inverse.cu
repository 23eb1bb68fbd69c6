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
// Two sizes of one kernel. Throughput: 32 samples (16 where these need too much shared memory) and 8 warps a block,
// every weight read once for 32 samples. Latency, while every block of 4 samples has a multiprocessor to itself: 16
// warps share the dense products of 4 samples. Dense products sum 8 classes of terms and add these in one order, so
// both give the same bits. Where activations do not fit into shared memory, the latency kernel keeps them in global
// memory.
//
// Floors (D = 64, M = 640, T = 4, mean only), on an H200 (67 TFLOP/s, 4.3 TB/s): 0.996 M live multiply-adds a sample,
// 0.12 ms at N = 4096 (masked and padded ones within panels come on top); weights, 7.9 MB, 2 us from HBM once, and the
// 4 MB that live from L2 for every block. Dependent steps: T * D = 256 draws, each followed by the sums of about M / D
// = 10 units in two layers and by the next outputs' sums; T * 11 panels of three dense products.
#include "made/inverse_cuda.h"

namespace vlae::cuda {
namespace {

template <class C>
__global__ void __launch_bounds__(C::threads, 1) made_inverse_kernel(const Inverse s) {
  Block<C>(s).run();
}

constexpr const char* op = "made_flow_inverse";
constexpr int pack_size = 32, pack_rows = 8;

// to[t][column][row] = weight[t][row][column], rows in counting order, 0 where the mask forbids
struct Packing {
  MaskedMatrix matrix;  // of step 0
  int to_row;
  float* to;

  __host__ __device__ Index tiles() const {
    return divide_up(matrix.rows, pack_size) * divide_up(matrix.columns, pack_size);
  }
};
struct Packings {
  Packing of[3];
};

__global__ void __launch_bounds__(pack_size* pack_rows) pack_kernel(const Index T, const Packings packings) {
  float* const corner = reinterpret_cast<float*>(shared_memory);  // [pack_size][pack_size + 1]
  Index block = blockIdx.x;
  int layer = 0;
  while (block >= T * packings.of[layer].tiles()) block -= T * packings.of[layer++].tiles();
  const Packing& p = packings.of[layer];
  const MaskedMatrix& m = p.matrix;
  const Index t = block / p.tiles(), row_tiles = divide_up(m.rows, pack_size);
  const Index row = block % row_tiles * pack_size, column = block % p.tiles() / row_tiles * pack_size;
  const int x = static_cast<int>(threadIdx.x) % pack_size, y = static_cast<int>(threadIdx.x) / pack_size;
  for (int r = y; r < pack_size; r += pack_rows) {
    const bool live = row + r < m.rows && column + x < m.prefix[row + r];
    corner[r * (pack_size + 1) + x] = live ? m.at(row + r, column + x)[t * m.rows * m.columns] : 0.0f;
  }
  __syncthreads();
  for (int c = y; c < pack_size; c += pack_rows)
    if (column + c < m.columns && row + x < m.rows)
      p.to[(t * m.columns + column + c) * p.to_row + row + x] = corner[x * (pack_size + 1) + c];
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
  const Packings packings = {
      {{layers.layer1, i.row2, b.weight1}, {layers.layer2, i.row2, b.weight2}, {layers.layer3, i.row3, b.weight3}}};
  Index tiles = 0;
  for (const Packing& p : packings.of) tiles += s.T * p.tiles();
  launch(op, pack_kernel, tiles, pack_size * pack_rows, pack_size * (pack_size + 1) * sizeof(float), stream, s.T,
         packings);
  i.weight1 = b.weight1, i.weight2 = b.weight2, i.weight3 = b.weight3;
  i.bias1 = p.bias1, i.bias2 = p.bias2, i.bias3 = p.bias3;
  i.below = b.tables.below, i.panel_end = b.tables.panel_end;
  i.eps = eps, i.hidden_context = hidden_context;
  i.z = z, i.activations = b.activations;
  const bool few = divide_up(s.N, Latency::samples) <= device_attribute(cudaDevAttrMultiProcessorCount, op);
  if (!few && fits<Throughput>(i))
    run<Throughput>(i, stream);
  else if (!few && fits<SmallThroughput>(i))
    run<SmallThroughput>(i, stream);
  else if (fits<Latency>(i))
    run<Latency>(i, stream);
  else
    run<LatencyInGlobal>(i, stream);
}

}  // namespace vlae::cuda
