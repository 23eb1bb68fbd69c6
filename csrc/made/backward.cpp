// Gradients of the density direction, a fixed number of samples at a time. First every thread takes some of the samples
// forward, keeps all activations, and comes back; then every thread takes some panels of the weight gradients and sums
// over the samples in order, so that no sum depends on the number of threads.
#include "made/made.h"

namespace vlae::VLAE_ISA {

using namespace made;

namespace {

constexpr Index batch_size = 2 * chunk_size;

Index first_row_that_sees(const MaskedMatrix& m, Index column) {
  Index low = 0, high = m.rows;
  while (low < high) {
    const Index middle = (low + high) / 2;
    if (m.prefix[middle] > column)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// dx += dy weight
void masked_linear_dx(const MaskedMatrix& m, Index N, const float* dy, float* dx, float* panel) {
  const Index dy_row = padded(m.rows), dx_row = padded(m.columns);
  for (Index column = 0; column < m.columns; column += panel_width) {
    const Index first = first_row_that_sees(m, column);
    pack_rows(m, column, first, m.rows, panel);
    multiply(N, dy + first, dy_row, 1, panel, m.rows - first, dx + column, dx_row);
  }
}

// dweight[:, column..column + 32) += dy^T x; panel: scratch of panel_width * N
void masked_linear_dweight(const MaskedMatrix& m, Index column, Index N, const float* dy, const float* x,
                           float* dweight, float* panel) {
  copy_rows(N, panel_width, x + column, padded(m.columns), panel, panel_width);
  const Index count = min(m.columns - column, panel_width);
  for (Index row = first_row_that_sees(m, column); row < m.rows; row += tile_rows) {
    const Index rows = min(m.rows - row, tile_rows);
    float* corner = dweight + row * m.columns + column;
    float tile[tile_rows * panel_width];
    for (Index r = 0; r < rows; ++r) copy_padded(corner + r * m.columns, count, tile + r * panel_width);
    multiply(rows, dy + row, 1, padded(m.rows), panel, N, tile, panel_width);
    for (Index r = 0; r < rows; ++r)
      for (Index i = 0; i < min(count, m.prefix[row + r] - column); ++i)
        corner[r * m.columns + i] = tile[r * panel_width + i];
  }
}

// dbias[begin..begin + 32) += the sum over samples of dy
void add_column_sums(Index begin, Index count, Index N, const float* dy, float* dbias) {
  const Index row = padded(count);
  float sum[panel_width];
  copy_padded(dbias + begin, count - begin, sum);
  for (Index n = 0; n < N; ++n)
    for (Index i = 0; i < panel_width; ++i) sum[i] += dy[n * row + begin + i];
  for (Index i = 0; i < min(count - begin, panel_width); ++i) dbias[begin + i] = sum[i];
}

// dy = 0 where the unit was off
void relu_backward(Index count, const float* y, float* dy) {
  for (Index i = 0; i < count; i += lanes) store(dy + i, load(y + i) > 0.0f ? load(dy + i) : V{});
}

void fill_zero(Index n_threads, Index count, float* to) {
  parallel(n_threads, count, Index{1} << 16, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) to[i] = 0.0f;
  });
}

// What one step leaves for the weight gradients: rows of all samples of the batch, padded as in Activations.
struct Tape {
  float *y, *shrink, *dmean, *dscale;              // [N, padded(D)]
  float *hidden1, *hidden2, *dhidden1, *dhidden2;  // [N, padded(M)]
};
constexpr Index tape_fields = 4;  // of each kind

Tape tape_at(float* memory, Index N, Index D, Index M, Index t) {
  const Index narrow = N * padded(D), wide = N * padded(M);
  float* a = memory + t * tape_fields * (narrow + wide);
  float* b = a + tape_fields * narrow;
  return {a, a + narrow, a + 2 * narrow, a + 3 * narrow, b, b + wide, b + 2 * wide, b + 3 * wide};
}

// From dy, the gradient of a step's result, to dmean, dscale and the direct part of the gradient of its argument.
void transform_backward(Index D, bool with_scale, const float* result, const float* shrink, float dlog_det, float* dy,
                        float* dmean, float* dscale) {
  for (Index i = 0, j = D - 1; i < j; ++i, --j) {
    const float swap = dy[i];
    dy[i] = dy[j];
    dy[j] = swap;
  }
  for (Index j = 0; j < D; ++j) {
    if (with_scale) {
      dscale[j] = -(dy[j] * result[D - 1 - j] + dlog_det);
      dy[j] *= shrink[j];
    }
    dmean[j] = -dy[j];
  }
}

}  // namespace

void made_flow_backward(const MADEFlow& s, const MADEFlowParams& p, const float* z, const float* hidden_context,
                        const float* deps, const float* dlog_det, Index n_threads, float* dz, float* dhidden_context,
                        const MADEFlowGrads& grads) {
  const Prefixes prefixes(s, p.degrees);
  const Index D = padded(s.D), M = padded(s.M), outputs = s.scale ? 2 * s.D : s.D;
  fill_zero(n_threads, s.T * s.M * s.D, grads.weight1);
  fill_zero(n_threads, s.T * s.M, grads.bias1);
  fill_zero(n_threads, s.T * s.M * s.M, grads.weight2);
  fill_zero(n_threads, s.T * s.M, grads.bias2);
  fill_zero(n_threads, s.T * outputs * s.M, grads.weight3);
  fill_zero(n_threads, s.T * outputs, grads.bias3);

  const Index rows = min(s.N, batch_size);
  const Scratch memory((s.T + 1) * tape_fields * rows * (D + M));
  const auto tape = [&](Index t) { return tape_at(memory.data(), rows, s.D, s.M, t); };

  for (Index batch = 0; batch < s.N; batch += batch_size) {
    const Index batch_rows = min(s.N - batch, batch_size);

    parallel(n_threads, batch_rows, grain, [&](Index begin, Index end) {
      const Index N = end - begin, first = batch + begin;
      const Scratch panel(panel_width * (D + M)), mean(N * D), log_det(N), dy(N * D);
      copy_rows(N, s.D, z + first * s.D, s.D, tape(0).y + begin * D, D);
      for (Index t = 0; t < s.T; ++t) {
        const Tape a = tape(t);
        const float* context = hidden_context ? hidden_context + (first * s.T + t) * s.M : nullptr;
        run_step(step_at(s, p, prefixes, t), N, context, s.T * s.M,
                 {.y = a.y + begin * D,
                  .hidden1 = a.hidden1 + begin * M,
                  .hidden2 = a.hidden2 + begin * M,
                  .mean = mean.data(),
                  .shrink = a.shrink + begin * D,
                  .next = tape(t + 1).y + begin * D,
                  .log_det = log_det.data()},
                 panel.data());
      }
      copy_rows(N, s.D, deps + first * s.D, s.D, dy.data(), D);
      for (Index t = s.T - 1; t >= 0; --t) {
        const Step step = step_at(s, p, prefixes, t);
        const Tape a = tape(t);
        const float* result = tape(t + 1).y;
        for (Index n = begin; n < end; ++n)
          transform_backward(s.D, s.scale, result + n * D, a.shrink + n * D, dlog_det[batch + n],
                             dy.data() + (n - begin) * D, a.dmean + n * D, a.dscale + n * D);
        float *dhidden1 = a.dhidden1 + begin * M, *dhidden2 = a.dhidden2 + begin * M;
        fill_zero(1, N * M, dhidden2);
        masked_linear_dx(step.mean, N, a.dmean + begin * D, dhidden2, panel.data());
        if (s.scale) masked_linear_dx(step.scale, N, a.dscale + begin * D, dhidden2, panel.data());
        relu_backward(N * M, a.hidden2 + begin * M, dhidden2);
        fill_zero(1, N * M, dhidden1);
        masked_linear_dx(step.layer2, N, dhidden2, dhidden1, panel.data());
        relu_backward(N * M, a.hidden1 + begin * M, dhidden1);
        if (hidden_context) copy_rows(N, s.M, dhidden1, M, dhidden_context + (first * s.T + t) * s.M, s.T * s.M);
        masked_linear_dx(step.layer1, N, dhidden1, dy.data(), panel.data());
      }
      copy_rows(N, s.D, dy.data(), D, dz + first * s.D, s.D);
    });

    // One item: 32 columns of weight1 and 32 output biases, or 32 columns of weight2 and weight3 and 32 hidden biases.
    // Early columns have more live rows: early and late items take turns, so that equal ranges are equal work.
    const Index input_items = D / panel_width, items = input_items + M / panel_width, all_items = s.T * items;
    parallel(n_threads, all_items, 1, [&](Index begin, Index end) {
      const Scratch panel(panel_width * batch_rows);
      for (Index turn = begin; turn < end; ++turn) {
        const Index i = turn % 2 ? all_items - 1 - turn / 2 : turn / 2;
        const Index t = i / items, item = i % items;
        const Step step = step_at(s, p, prefixes, t);
        const Tape a = tape(t);
        const auto dweight = [&](const MaskedMatrix& m, Index column, const float* dy, const float* x, float* to) {
          masked_linear_dweight(m, column, batch_rows, dy, x, to, panel.data());
        };
        float* dweight3 = grads.weight3 + t * outputs * s.M;
        float* dbias3 = grads.bias3 + t * outputs;
        if (item < input_items) {
          const Index column = item * panel_width;
          dweight(step.layer1, column, a.dhidden1, a.y, grads.weight1 + t * s.M * s.D);
          add_column_sums(column, s.D, batch_rows, a.dmean, dbias3);
          if (s.scale) add_column_sums(column, s.D, batch_rows, a.dscale, dbias3 + s.D);
        } else {
          const Index column = (item - input_items) * panel_width;
          dweight(step.layer2, column, a.dhidden2, a.hidden1, grads.weight2 + t * s.M * s.M);
          dweight(step.mean, column, a.dmean, a.hidden2, dweight3);
          if (s.scale) dweight(step.scale, column, a.dscale, a.hidden2, dweight3 + s.D * s.M);
          add_column_sums(column, s.M, batch_rows, a.dhidden1, grads.bias1 + t * s.M);
          add_column_sums(column, s.M, batch_rows, a.dhidden2, grads.bias2 + t * s.M);
        }
      }
    });
  }
}

}  // namespace vlae::VLAE_ISA
