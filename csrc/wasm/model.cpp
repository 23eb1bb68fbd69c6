// A whole model in WebAssembly, for the page that `vlae-fast explore` makes. What it is made of is read from a row of
// bytes that vlae_fast/explore/model.py writes; the functions of vlae.h do the rest. All arrays but the weights are the
// caller's, float32 in memory that `take` gave.
#include "core/parallel.h"
#include "core/simd.h"
#include "wasm/page.h"

namespace vlae::VLAE_ISA {

namespace {

template <class T>
T* take(Index n) {
  static_assert(sizeof(T) % sizeof(float) == 0);
  return reinterpret_cast<T*>(claim(n * Index{sizeof(T) / sizeof(float)}));
}

// Numbers of 32 bits and floats of 16, one after the other.
class Reader {
 public:
  explicit Reader(const unsigned char* bytes) : next_(bytes) {}
  Index number() { return read<std::int32_t>(); }
  float single() { return read<float>(); }
  float half() {
    const std::uint32_t h = read<std::uint16_t>();
    const float magnitude = __builtin_bit_cast(float, (h & 0x7FFF) << 13) * 0x1p112f;
    return h & 0x8000 ? -magnitude : magnitude;
  }
  float* halves(Index n) {
    float* const values = take<float>(n);
    for (Index i = 0; i < n; ++i) values[i] = half();
    return values;
  }
  // Normalised rows w[R,n]: the entries of v that `seen` lets through, the others 0, then where `gains` g[R], else 1.
  template <class Seen>
  float* weights(Index R, Index n, Seen seen, const Index* live = nullptr, bool gains = true) {
    float *const w = take<float>(R * n), *const g = take<float>(R);
    for (Index r = 0; r < R; ++r)
      for (Index i = 0; i < n; ++i) w[r * n + i] = seen(r, i) ? half() : 0.0f;
    for (Index r = 0; r < R; ++r) g[r] = gains ? half() : 1.0f;
    weight_norm(R, n, w, g, live, 1, w);
    return w;
  }
  float* weights(Index R, Index n) {
    return weights(R, n, [](Index, Index) { return true; });
  }

 private:
  template <class T>
  T read() {
    T value;
    __builtin_memcpy(&value, next_, sizeof value);
    next_ += sizeof value;
    return value;
  }
  const unsigned char* next_;
};

struct Layer {
  Dense sizes;
  const float *weight, *bias;

  static Layer read(Reader& in, Index inputs, Index outputs, bool pre_elu) {
    const float* const weight = in.weights(outputs, inputs);
    return {{0, inputs, outputs, pre_elu}, weight, in.halves(outputs)};
  }
  void run(Index N, const float* x, float* y) const {
    dense({N, sizes.C, sizes.K, sizes.pre_elu}, x, weight, bias, 1, y);
  }
};

struct Convolutions {
  ResNet net;
  const float** params;
  Index size;  // of the result for an image

  static Convolutions read(Reader& in) {
    const Index H = in.number(), W = in.number(), B = in.number();
    ResNetBlock* const blocks = take<ResNetBlock>(B);
    const float** const params = take<const float*>(6 * B);
    for (Index i = 0; i < 6 * B; ++i) params[i] = nullptr;
    for (Index i = 0; i < B; ++i) {
      const Index kind = in.number(), C = in.number(), M = in.number(), K = in.number(), h = in.number(),
                  w = in.number();
      blocks[i] = {kind, C, M, K, h, w};
      const float** const of_block = params + 6 * i;
      const auto layer = [&](int place, Index inputs, Index outputs, bool transposed) {
        float* const weight = in.weights(outputs, 9 * inputs);
        of_block[2 * place] = transposed ? with_inputs_first(weight, outputs, inputs) : weight;
        of_block[2 * place + 1] = in.halves(outputs);
      };
      layer(0, C, M, false);
      if (kind < 3) layer(1, M, K, kind == 2);
      if (kind == 1 || kind == 2) layer(2, C, K, kind == 2);
    }
    const ResNetBlock& last = blocks[B - 1];
    return {{0, H, W, B, blocks, in.single()}, params, last.K * last.H * last.W};
  }
  void run(Index N, const float* x, float* y) const {
    resnet_forward({N, net.H, net.W, net.B, net.blocks, net.residual_scale}, params, x, 1, y, nullptr);
  }

 private:
  static const float* with_inputs_first(const float* weight, Index outputs, Index inputs) {
    float* const turned = take<float>(9 * inputs * outputs);
    for (Index o = 0; o < outputs; ++o)
      for (Index c = 0; c < inputs; ++c)
        for (Index tap = 0; tap < 9; ++tap) turned[9 * (c * outputs + o) + tap] = weight[9 * (o * inputs + c) + tap];
    return turned;
  }
};

struct Flow {
  MADEFlow sizes;  // of no step where the prior is Gaussian
  MADEFlowParams params;

  static Flow read(Reader& in, Index D) {
    const Index T = in.number(), M = in.number();
    Index* const degrees = take<Index>(M);
    for (Index h = 0; h < M; ++h) degrees[h] = h * D / M;
    // Rows whose live entries are those of the columns of a degree at most that of the row.
    const auto rows = [&](Index R, Index n, auto live_of) {
      Index* const live = take<Index>(T * R);
      for (Index r = 0; r < T * R; ++r) live[r] = live_of(r % R);
      return in.weights(T * R, n, [=](Index r, Index i) { return i < live[r]; }, live);
    };
    const auto units = [&](Index degree) {
      Index n = 0;
      while (n < M && degrees[n] <= degree) ++n;
      return n;
    };
    const float* const weight1 = rows(M, D, [&](Index h) { return degrees[h] + 1; });
    const float* const bias1 = in.halves(T * M);
    const float* const weight2 = rows(M, M, [&](Index h) { return units(degrees[h]); });
    const float* const bias2 = in.halves(T * M);
    const float* const weight3 = rows(D, M, [&](Index j) { return units(j - 1); });
    const float* const bias3 = in.halves(T * D);
    return {{0, D, M, T, false}, {weight1, bias1, weight2, bias2, weight3, bias3, degrees}};
  }
  MADEFlow of(Index N) const { return {N, sizes.D, sizes.M, sizes.T, false}; }
};

struct Stack {
  PixelCNN sizes;
  PixelCNNParams params;

  static Stack read(Reader& in, Index H, Index W) {
    const Index C = in.number(), K = in.number(), L = in.number(), P = in.number(), S = in.number(),
                stride = in.number();
    Wire* const wiring = take<Wire>(L + 2 * P + 1);
    for (Index i = 0; i < L + 2 * P; ++i) {
      const auto number = [&] { return static_cast<std::int32_t>(in.number()); };
      const std::int32_t taps = number(), index = number();
      wiring[i] = {taps, index, number()};
    }
    const float scale = in.single();
    // The image and the context come in side by side, and are told apart here.
    const float* const input = in.weights(C, 9 * (1 + K), [](Index, Index i) { return i < 4 || i >= 9; });
    float *const image = take<float>(9 * C), *const context = take<float>(9 * K * C);
    for (Index c = 0; c < C; ++c)
      for (Index i = 0; i < 9 * (1 + K); ++i)
        (i < 9 ? image[9 * c + i] : context[9 * K * c + i - 9]) = input[9 * (1 + K) * c + i];
    const float* const input_bias = in.halves(C);
    const auto causal = [](Index, Index i) { return i % 9 < 5; };
    const float* const hidden = in.weights(S * C, 9 * C, causal, nullptr, false);
    const float* const hidden_gain = in.halves(L * C);
    const float* const hidden_bias = in.halves(L * C);
    const float* const pointwise = in.weights(2 * P * C, C);
    const float* const pointwise_bias = in.halves(2 * P * C);
    const float* const output = in.weights(1, C);
    return {{0, H, W, C, K, L, P, S, wiring, scale, stride},
            {image, context, input_bias, hidden, hidden_gain, hidden_bias, pointwise, pointwise_bias, output,
             in.halves(1)}};
  }
  PixelCNN of(Index N) const {
    PixelCNN of = sizes;
    of.N = N;
    return of;
  }
};

struct Model {
  Index D;
  Flow flow;
  Convolutions encoder, decoder;
  Layer encoder_dense, moments, decoder_dense1, decoder_dense2;
  Stack stack;
} model;

}  // namespace

#define EXPORT(name) extern "C" [[gnu::used, clang::export_name(#name)]]

EXPORT(take) float* page_take(int floats) { return claim(floats); }

EXPORT(open) void page_open(const unsigned char* bytes) {
  Reader in(bytes);
  const Index D = in.number(), U = in.number();
  const Flow flow = Flow::read(in, D);
  const Convolutions encoder = Convolutions::read(in);
  const Layer encoder_dense = Layer::read(in, encoder.size, U, true);
  const Layer moments = Layer::read(in, U, 2 * D, true);
  const Layer decoder_dense1 = Layer::read(in, D, U, false);
  const Layer decoder_dense2 = Layer::read(in, U, encoder.size, true);
  const Convolutions decoder = Convolutions::read(in);
  const Stack stack = Stack::read(in, encoder.net.H, encoder.net.W);
  model = {D, flow, encoder, decoder, encoder_dense, moments, decoder_dense1, decoder_dense2, stack};
}

EXPORT(noise)
void page_noise(unsigned seed_low, unsigned seed_high, unsigned stream, unsigned item, int start, int normals,
                int uniforms, float* normal, float* uniform) {
  noise(std::uint64_t{seed_high} << 32 | seed_low, stream, item, start, normals, uniforms, normal, uniform);
}

// eps[N,D] -> z, and back.
EXPORT(code_of) void page_code_of(int N, const float* eps, float* z) {
  made_flow_inverse(model.flow.of(N), model.flow.params, eps, nullptr, 1, z);
}
EXPORT(prior_of) void page_prior_of(int N, const float* z, float* eps, float* log_det) {
  made_flow_forward(model.flow.of(N), model.flow.params, z, nullptr, 1, eps, log_det);
}

// Listed codes: eps[N,D] is rounded to the lattice, and z is its code there.
EXPORT(listed) void page_listed(int N, float grid, float* eps, float* z) {
  for (Index i = 0; i < N * model.D; ++i) eps[i] = __builtin_rintf(eps[i] / grid) * grid;
  made_flow_lattice(model.flow.of(N), model.flow.params, grid, true, eps, 1, z);
}

// x[N,1,H,W] -> means and standard deviations of q(z|x), [N,D], and the logarithms of these.
EXPORT(encode) void page_encode(int N, const float* x, float* mean, float* std, float* log_std) {
  const Index D = model.D, U = model.encoder_dense.sizes.K;
  const Scratch maps(N * model.encoder.size), h(N * U), both(N * 2 * D);
  model.encoder.run(N, x, maps.data());
  model.encoder_dense.run(N, maps.data(), h.data());
  model.moments.run(N, h.data(), both.data());
  for (Index n = 0; n < N; ++n) {
    __builtin_memcpy(mean + n * D, both.data() + 2 * n * D, D * sizeof(float));
    __builtin_memcpy(log_std + n * D, both.data() + (2 * n + 1) * D, D * sizeof(float));
  }
  exponential(N * D, log_std, std);
}

// z[N,D] -> context[N,K,H,W].
EXPORT(decode) void page_decode(int N, const float* z, float* context) {
  const Index U = model.decoder_dense1.sizes.K;
  const Scratch h(N * U), maps(N * model.encoder.size);
  model.decoder_dense1.run(N, z, h.data());
  model.decoder_dense2.run(N, h.data(), maps.data());
  model.decoder.run(N, maps.data(), context);
}

// context, uniforms[N,H,W], given[N,H,W] or null -> x[N,1,H,W].
EXPORT(draw)
void page_draw(int N, const float* context, const float* uniforms, const std::int8_t* given, float temperature,
               float* x) {
  pixelcnn_sample(model.stack.of(N), model.stack.params, context, uniforms, given, temperature, 1, x);
}

// log p(x|z) of each pixel, [N,1,H,W] nats.
EXPORT(score) void page_score(int N, const float* x, const float* context, float* log_prob) {
  const Index pixels = N * model.stack.sizes.H * model.stack.sizes.W;
  const Scratch logits(pixels);
  pixelcnn_logits(model.stack.of(N), model.stack.params, x, context, 1, logits.data());
  bernoulli_log_prob(pixels, x, logits.data(), log_prob);
}

// Which of N codes z[N,D], of half_squares[N] = |eps|^2 / 2, has the largest q(z|x) / p(z).
EXPORT(likeliest)
int page_likeliest(int N, const float* z, const float* half_squares, const float* mean, const float* std) {
  const Index D = model.D;
  const Scratch slopes(D), precisions(D);
  for (Index d = 0; d < D; ++d) {
    precisions.data()[d] = 1.0f / (std[d] * std[d]);
    slopes.data()[d] = mean[d] * precisions.data()[d];
  }
  int best = 0;
  float most = -__builtin_inff();
  for (int n = 0; n < N; ++n, z += D) {
    V sum = {};
    Index d = 0;
    for (; d + lanes <= D; d += lanes) {
      const V code = load(z + d);
      sum = sum + code * (load(slopes.data() + d) - 0.5f * code * load(precisions.data() + d));
    }
    float total = half_squares[n] + (sum[0] + sum[1]) + (sum[2] + sum[3]);
    for (; d < D; ++d) total += z[d] * (slopes.data()[d] - 0.5f * z[d] * precisions.data()[d]);
    if (total > most) best = n, most = total;
  }
  return best;
}

}  // namespace vlae::VLAE_ISA
