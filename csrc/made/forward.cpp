// Density direction: every step is three masked products over a chunk of samples.
#include "made/made.h"

namespace vlae::VLAE_ISA::made {
namespace {

// out[N, padded(rows)] = relu?(x weight^T + bias + context); context may be null.
void masked_linear(const MaskedMatrix& m, const float* bias, const float* context, Index context_row, Index N,
                   const float* x, bool with_relu, float* out, float* panel) {
  const Index out_row = padded(m.rows), x_row = padded(m.columns);
  for (Index row = 0; row < m.rows; row += panel_width) {
    const Index count = min(m.rows - row, panel_width), terms = m.prefix[row + count - 1];
    pack_transposed(m, row, 0, terms, panel);
    float start[panel_width];
    copy_padded(bias + row, count, start);
    for (Index n = 0; n < N; ++n) {
      float* y = out + n * out_row + row;
      for (Index i = 0; i < panel_width; ++i) y[i] = start[i];
      if (context)
        for (Index i = 0; i < count; ++i) y[i] += context[n * context_row + row + i];
    }
    multiply(N, x, x_row, 1, panel, terms, out + row, out_row);
    if (with_relu)
      for (Index n = 0; n < N; ++n)
        for (float* y = out + n * out_row + row; y < out + n * out_row + row + panel_width; y += lanes)
          store(y, relu(load(y)));
  }
}

// next = reverse((y - mean) * exp(-scale)); `shrink` holds the scale before and exp(-scale) after. Returns -sum(scale).
template <bool with_scale>
float transform_sample(Index D, const float* y, const float* mean, float* shrink, float* next) {
  Wide total = {};
  for (Index j = 0; j < D; j += lanes) {
    V out = load(y + j) - load(mean + j);
    if constexpr (with_scale) {
      const V scale = load(shrink + j), factor = exp(-scale);
      total.part[j % 16 / lanes] -= scale;  // 0 in the padding
      out *= factor;
      store(shrink + j, factor);
    }
    for (Index i = 0; i < lanes && j + i < D; ++i) next[D - 1 - j - i] = out[i];
  }
  return sum(total);
}

}  // namespace

void run_step(const Step& step, Index N, const float* hidden_context, Index context_row, const Activations& a,
              float* panel) {
  masked_linear(step.layer1, step.bias1, hidden_context, context_row, N, a.y, true, a.hidden1, panel);
  masked_linear(step.layer2, step.bias2, nullptr, 0, N, a.hidden1, true, a.hidden2, panel);
  masked_linear(step.mean, step.mean_bias, nullptr, 0, N, a.hidden2, false, a.mean, panel);
  if (step.with_scale) masked_linear(step.scale, step.scale_bias, nullptr, 0, N, a.hidden2, false, a.shrink, panel);
  const auto transform = step.with_scale ? transform_sample<true> : transform_sample<false>;
  const Index D = step.mean.rows, row = padded(D);
  for (Index n = 0; n < N; ++n)
    a.log_det[n] += transform(D, a.y + n * row, a.mean + n * row, a.shrink + n * row, a.next + n * row);
}

}  // namespace vlae::VLAE_ISA::made

namespace vlae::VLAE_ISA {

using namespace made;

void made_flow_forward(const MADEFlow& s, const MADEFlowParams& p, const float* z, const float* hidden_context,
                       Index n_threads, float* eps, float* log_det) {
  const Prefixes prefixes(s, p.degrees);
  const Index D = padded(s.D), M = padded(s.M);
  parallel(n_threads, s.N, grain, [&](Index thread_begin, Index thread_end) {
    const Index rows = min(thread_end - thread_begin, chunk_size);
    const Scratch y(rows * D), next(rows * D), hidden1(rows * M), hidden2(rows * M), mean(rows * D), shrink(rows * D),
        panel(panel_width * (s.D + s.M));
    for (Index begin = thread_begin; begin < thread_end; begin += chunk_size) {
      const Index N = min(thread_end - begin, chunk_size);
      Activations a = {.y = y.data(),
                       .hidden1 = hidden1.data(),
                       .hidden2 = hidden2.data(),
                       .mean = mean.data(),
                       .shrink = shrink.data(),
                       .next = next.data(),
                       .log_det = log_det + begin};
      for (Index n = 0; n < N; ++n) log_det[begin + n] = 0.0f;
      copy_rows(N, s.D, z + begin * s.D, s.D, a.y, D);
      for (Index t = 0; t < s.T; ++t) {
        const float* context = hidden_context ? hidden_context + (begin * s.T + t) * s.M : nullptr;
        run_step(step_at(s, p, prefixes, t), N, context, s.T * s.M, a, panel.data());
        float* result = a.next;
        a.next = a.y;
        a.y = result;
      }
      copy_rows(N, s.D, a.y, D, eps + begin * s.D, s.D);
    }
  });
}

}  // namespace vlae::VLAE_ISA
