// Hashes of every function of vlae.h on fixed inputs, a line for each instruction set and function: on all processors
// that have fused multiply-add the same ones, and in plain arithmetic on all. Outputs begin as NaN, so that what is not
// written shows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <limits>
#include <vector>

#include "vlae.h"

namespace {

using namespace vlae;

class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15 + 1) {}
  std::uint32_t bits() {  // splitmix64
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return static_cast<std::uint32_t>((z ^ (z >> 31)) >> 32);
  }
  float uniform() { return static_cast<float>(bits() >> 8) * 0x1p-24f; }

 private:
  std::uint64_t state_;
};

// All memory of a run, and the hash of what was written.
struct Run {
  Random random{7};
  std::vector<std::vector<float>> memory;
  std::vector<std::vector<float>> outputs;

  Run() {
    memory.reserve(1024);
    outputs.reserve(1024);
  }
  const float* input(Index n, float size = 1.0f) {
    std::vector<float> values(n + 1);
    for (float& v : values) v = size * (2.0f * random.uniform() - 1.0f);
    return memory.emplace_back(std::move(values)).data();
  }
  const float* binary(Index n) {
    std::vector<float> values(n + 1);
    for (float& v : values) v = static_cast<float>(random.bits() & 1);
    return memory.emplace_back(std::move(values)).data();
  }
  const float* uniforms(Index n) {
    std::vector<float> values(n + 1);
    for (float& v : values) v = random.uniform();
    return memory.emplace_back(std::move(values)).data();
  }
  float* output(Index n) {
    return outputs.emplace_back(std::vector<float>(n, std::numeric_limits<float>::quiet_NaN())).data();
  }
  std::uint64_t hash() const {  // FNV-1a
    std::uint64_t h = 0xCBF29CE484222325;
    for (const auto& values : outputs)
      for (float v : values) {
        std::uint32_t bits;
        std::memcpy(&bits, &v, 4);
        if (v != v) bits = 0x7FC00000;
        for (int i = 0; i < 4; ++i) h = (h ^ (bits >> 8 * i & 255)) * 0x100000001B3;
      }
    return h;
  }
};

constexpr Index threads = 2;

void conv(const Kernels& k, Run& r) {
  for (const Conv3x3& s : {Conv3x3{3, 5, 7, 6, 9, 4, true, 0.7f}, Conv3x3{2, 12, 13, 28, 28, 5, false, 1.0f}}) {
    const Index image = s.H * s.W, in = s.N * s.C * image, out = s.N * s.K * image, weights = s.K * s.C * 9;
    const float *x = r.input(in), *weight = r.input(weights, 0.2f), *bias = r.input(s.K), *gain = r.input(s.K),
                *residual = r.input(out), *dy = r.input(out);
    k.masked_conv3x3(s, x, weight, bias, gain, residual, threads, r.output(out));
    float *dx = r.output(in), *dweight = r.output(weights), *dbias = r.output(s.K), *dgain = r.output(s.K);
    k.masked_conv3x3_backward(s, dy, x, weight, gain, threads, dx, dweight, dbias, dgain);
  }
}

void pixelcnn(const Kernels& k, Run& r) {
  const Wire wiring[] = {{5, 0, 0}, {5, 1, 1}, {1, 0, 0}, {1, 1, 1}, {5, 2, 0}, {5, 3, 1}};
  for (const Index C : {5, 12}) {
    const PixelCNN s = {3, 11, 14, C, 4, 4, 1, 4, wiring, 0.8f, 1};
    const Index sizes[] = {C * 9,       C * s.K * 9, C, s.S * C * C * 9, s.L * C, s.L * C, s.P * 2 * C * C,
                           s.P * 2 * C, C,           1};
    const float* w[10];
    float* dw[10];
    for (int i = 0; i < 10; ++i) w[i] = r.input(sizes[i], i == 3 ? 0.2f : 0.5f);
    for (int i = 0; i < 10; ++i) dw[i] = r.output(sizes[i]);
    PixelCNNParams p;
    PixelCNNGrads g;
    std::memcpy(&p, w, sizeof p);
    std::memcpy(&g, dw, sizeof g);
    const Index pixels = s.N * s.H * s.W;
    const float *x = r.binary(pixels), *context = r.input(pixels * s.K), *dlog_prob = r.input(s.N);
    k.pixelcnn_logits(s, p, x, context, threads, r.output(pixels));
    k.pixelcnn_log_prob(s, p, x, context, threads, r.output(s.N));
    float *dx = r.output(pixels), *dcontext = r.output(pixels * s.K);
    k.pixelcnn_backward(s, p, x, context, nullptr, dlog_prob, threads, dx, dcontext, g);
    k.pixelcnn_sample(s, p, context, r.uniforms(pixels), nullptr, 1.3f, threads, r.output(pixels));
  }
}

void resnet(const Kernels& k, Run& r) {
  const ResNetBlock blocks[] = {{1, 3, 16, 18, 4, 5}, {0, 18, 7, 18, 4, 5}, {2, 18, 16, 5, 8, 9}, {3, 5, 4, 4, 8, 9}};
  const ResNet s = {7, 8, 9, 4, blocks, 0.1f};
  std::vector<const float*> w;
  std::vector<float*> dw;
  for (const ResNetBlock& b : blocks) {
    const Index skip = b.kind == 1 || b.kind == 2 ? b.C * b.K * 9 : 0, second = b.kind == 3 ? 0 : b.M * b.K * 9;
    for (const Index n : {b.C * b.M * 9, b.M, second, second ? b.K : 0, skip, skip ? b.K : 0}) {
      w.push_back(n ? r.input(n, 0.3f) : nullptr);
      dw.push_back(n ? r.output(n) : nullptr);
    }
  }
  const Index in = s.N * 3 * s.H * s.W, out = s.N * 4 * s.H * s.W;
  const float *x = r.input(in), *dy = r.input(out);
  std::vector<float> kept(s.N * ((4 * 3 + 16) * 4 * 6 + (18 + 7) * 4 * 6 + (18 + 16) * 4 * 6 + 5 * 8 * 10));
  k.resnet_forward(s, w.data(), x, threads, r.output(out), kept.data());
  k.resnet_backward(s, w.data(), dy, x, kept.data(), threads, r.output(in), dw.data());
}

void dense(const Kernels& k, Run& r) {
  for (const Dense& s : {Dense{5, 37, 13, true}, Dense{33, 450, 64, false}}) {
    const float *x = r.input(s.N * s.C), *weight = r.input(s.K * s.C), *bias = r.input(s.K), *dy = r.input(s.N * s.K);
    k.dense(s, x, weight, bias, threads, r.output(s.N * s.K));
    float *dx = r.output(s.N * s.C), *dweight = r.output(s.K * s.C), *dbias = r.output(s.K);
    k.dense_backward(s, dy, x, weight, threads, dx, dweight, dbias);
  }
  const float* x = r.input(1000, 90.0f);
  k.exponential(1000, x, r.output(1000));
  const float *chances = r.input(1000), *dy = r.input(1000);
  k.bernoulli_log_prob(1000, chances, x, r.output(1000));
  float *dx = r.output(1000), *dlogits = r.output(1000);
  k.bernoulli_log_prob_backward(1000, dy, chances, x, dx, dlogits);
  const float* grad = r.input(1001);
  float* moved[4];
  for (float*& values : moved) {
    values = r.output(1001);
    for (Index i = 0; i < 1001; ++i) values[i] = x[i % 1000] * x[i % 1000];
  }
  k.adamax(1001, {0.01f, 0.9f, 0.999f, 1e-8f, 0.998f}, grad, threads, moved[0], moved[1], moved[2], moved[3]);
}

void made(const Kernels& k, Run& r) {
  for (const MADEFlow& s : {MADEFlow{5, 7, 19, 2, true}, MADEFlow{40, 64, 200, 3, false}}) {
    const Index R = s.scale ? 2 * s.D : s.D;
    const Index sizes[] = {s.T * s.M * s.D, s.T * s.M, s.T * s.M * s.M, s.T * s.M, s.T * R * s.M, s.T * R};
    const float* w[6];
    float* dw[6];
    for (int i = 0; i < 6; ++i) w[i] = r.input(sizes[i], 0.1f);
    for (int i = 0; i < 6; ++i) dw[i] = r.output(sizes[i]);
    std::vector<std::int64_t> degrees(s.M);
    for (Index h = 0; h < s.M; ++h) degrees[h] = h * s.D / s.M;
    const MADEFlowParams p = {w[0], w[1], w[2], w[3], w[4], w[5], degrees.data()};
    const MADEFlowGrads g = {dw[0], dw[1], dw[2], dw[3], dw[4], dw[5]};
    const float *z = r.input(s.N * s.D), *context = r.input(s.N * s.T * s.M), *deps = r.input(s.N * s.D),
                *dlog_det = r.input(s.N);
    float *eps = r.output(s.N * s.D), *log_det = r.output(s.N);
    k.made_flow_forward(s, p, z, context, threads, eps, log_det);
    k.made_flow_inverse(s, p, z, context, threads, r.output(s.N * s.D));
    float *dz = r.output(s.N * s.D), *dcontext = r.output(s.N * s.T * s.M);
    k.made_flow_backward(s, p, z, context, deps, dlog_det, threads, dz, dcontext, g);
  }
}

void made_net(const Kernels& k, Run& r) {
  const Index N = 21, D = 6, M = 17;
  std::vector<std::int64_t> degrees(M), positions(D);
  for (Index h = 0; h < M; ++h) degrees[h] = h * D / M;
  for (Index j = 0; j < D; ++j) positions[j] = (j + 2) % D;
  const float *x = r.input(N * D), *context = r.input(N * M);
  for (Index activation = 0; activation < 4; ++activation)
    for (Index scale = 0; scale < 4; ++scale) {
      const Index rows = scale == 0 ? D : 2 * D;
      const MADELayer layers[] = {
          {r.input(M * D), r.input(M), nullptr, nullptr, degrees.data(), context, nullptr, M, D, M, 0, -1, 0, -1, 1},
          {r.input(rows * M, 0.3f), r.input(rows), nullptr, nullptr, nullptr, nullptr, nullptr, rows, M, 0, 0, 0, 1, -1,
           0},
      };
      for (const bool inverse : {false, true}) {
        const MADEStep step = {positions.data(), nullptr, 2, activation, scale, 1e-3f, 2.0f};
        const MADE s = {N, D, 1, &step, layers, nullptr, inverse};
        float *y = r.output(N * D), *log_det = r.output(N);
        k.made_transform(s, x, threads, y, log_det);
      }
      const MADEStep step = {positions.data(), nullptr, 2, activation, scale, 1e-3f, 2.0f};
      k.made_inverse_backward({N, D, 1, &step, layers, nullptr, false}, x, x, context, threads, r.output(N * D));
    }
  // Two steps in one call: permutations, gates, weights in another order and forbidden ones.
  std::vector<std::int64_t> rows(2 * D);
  std::vector<std::uint8_t> forbidden(2 * D * M);
  for (Index i = 0; i < 2 * D; ++i) rows[i] = (i + D) % (2 * D);
  for (Index i = 0; i < 2 * D * M; ++i) forbidden[i] = i % 3 == 0;
  std::vector<MADELayer> layers;
  for (int t = 0; t < 2; ++t) {
    layers.push_back(
        {r.input(M * D), r.input(M), nullptr, nullptr, degrees.data(), context, x, M, D, M, D, -1, 0, -1, 1});
    layers.push_back({r.input(2 * D * M, 0.3f), nullptr, rows.data(), forbidden.data(), nullptr, nullptr, nullptr,
                      2 * D, M, 0, 0, 0, 1, -1, 0});
  }
  layers[0].gates = r.input(N * M);
  layers[0].gates_row = M;
  layers[2].gates = nullptr;
  const MADEStep steps[] = {{positions.data(), nullptr, 2, 3, 4, 6.9, 0},
                            {positions.data(), positions.data(), 2, 4, 6, 2, 0}};
  for (const bool inverse : {false, true}) {
    float *y = r.output(N * D), *log_det = r.output(N);
    k.made_transform({N, D, 2, steps, layers.data(), positions.data(), inverse}, x, threads, y, log_det);
  }
}

void weight_norm(const Kernels& k, Run& r) {
  const Index R = 9, n = 333;
  std::vector<std::int64_t> live(R);
  for (Index i = 0; i < R; ++i) live[i] = i * n / (R - 1);
  const float *v = r.input(R * n), *g = r.input(R), *dw = r.input(R * n);
  k.weight_norm(R, n, v, g, live.data(), threads, r.output(R * n));
  float *dv = r.output(R * n), *dg = r.output(R);
  k.weight_norm_backward(R, n, dw, v, g, live.data(), threads, dv, dg);
}

// What a codec needs, which there is in plain arithmetic too. Pixels and codes are pushed and must come back.
void codec(const Kernels& k, Run& r) {
  const ResNetBlock blocks[] = {{1, 3, 16, 18, 4, 5}, {2, 18, 16, 5, 8, 9}, {3, 5, 4, 4, 8, 9}};
  const ResNet net = {7, 8, 9, 3, blocks, 0.1f};
  std::vector<const float*> w;
  for (const ResNetBlock& b : blocks) {
    const Index skip = b.kind == 3 ? 0 : b.C * b.K * 9, second = b.kind == 3 ? 0 : b.M * b.K * 9;
    for (const Index n : {b.C * b.M * 9, b.M, second, second ? b.K : 0, skip, skip ? b.K : 0})
      w.push_back(n ? r.input(n, 0.3f) : nullptr);
  }
  const float *images = r.input(7 * 3 * 8 * 9), *x0 = r.input(21 * 130), *v = r.input(40 * 130), *g = r.input(40),
              *exponents = r.input(1000, 90.0f);
  k.resnet_forward(net, w.data(), images, threads, r.output(7 * 4 * 8 * 9), nullptr);
  k.dense({21, 130, 40, true}, x0, v, g, threads, r.output(21 * 40));
  k.weight_norm(40, 130, v, g, nullptr, threads, r.output(40 * 130));
  k.exponential(1000, exponents, r.output(1000));

  const Index N = 37, D = 24, M = 50, T = 3, room = 400;
  std::vector<std::int64_t> degrees(M), words(N);
  for (Index h = 0; h < M; ++h) degrees[h] = h * D / M;
  const float *w1 = r.input(T * M * D, 0.3f), *b1 = r.input(T * M), *w2 = r.input(T * M * M, 0.3f),
              *b2 = r.input(T * M), *w3 = r.input(T * D * M, 0.3f), *b3 = r.input(T * D);
  std::vector<std::uint64_t> state(N);
  std::vector<std::uint32_t> stack(N * room);
  const Coders coders = {state.data(), words.data(), stack.data(), room};
  const auto record = [&] {  // as numbers of 16 bits
    float* out = r.output(N * 6);
    for (Index n = 0; n < N; ++n) {
      for (int i = 0; i < 4; ++i) *out++ = static_cast<float>(state[n] >> 16 * i & 0xFFFF);
      *out++ = static_cast<float>(words[n]);
      *out++ = static_cast<float>(words[n] ? stack[n * room + words[n] - 1] >> 8 : 0);
    }
  };
  const float grid = 0x1p-5f;
  std::vector<float> z(N * D);
  for (float& value : z) value = grid * static_cast<float>(static_cast<int>(r.random.bits() % 161) - 80);
  const MADEFlow flow = {N, D, M, T, false};
  const MADEFlowParams p = {w1, b1, w2, b2, w3, b3, degrees.data()};
  float *eps = r.output(N * D), *back = r.output(N * D);
  k.made_flow_inverse(flow, p, z.data(), nullptr, threads, r.output(N * D));
  k.made_flow_lattice(flow, p, grid, false, z.data(), threads, eps);
  k.made_flow_lattice(flow, p, grid, true, eps, threads, back);
  const float* mean = r.input(N * D);
  const float* log_std = r.input(N * D, 0.3f);
  float* std = r.output(N * D);
  k.exponential(N * D, log_std, std);
  normal_code(N, D, grid, nullptr, nullptr, coders, false, z.data());
  normal_code(N, D, grid, mean, std, coders, false, z.data());
  record();

  const Wire wiring[] = {{5, 0, 0}, {5, 1, 1}, {1, 0, 0}, {1, 1, 1}, {5, 2, 0}, {5, 3, 1}};
  const Index C = 12, pixels = 11 * 14;
  const PixelCNN s = {N, 11, 14, C, 4, 4, 1, 4, wiring, 0.8f, 1};
  const PixelCNNParams q = {r.input(C * 9),     r.input(C * s.K * 9, 0.5f),
                            r.input(C),         r.input(4 * C * C * 9, 0.2f),
                            r.input(s.L * C),   r.input(s.L * C),
                            r.input(2 * C * C), r.input(2 * C),
                            r.input(C),         r.input(1)};
  const float* context = r.input(N * pixels * s.K);
  const float* bits = r.binary(N * pixels);
  std::vector<float> x(bits, bits + N * pixels);
  const float* uniforms = r.uniforms(N * pixels);
  k.pixelcnn_sample(s, q, context, uniforms, nullptr, 1.3f, threads, r.output(N * pixels));
  k.pixelcnn_code(s, q, context, coders, false, threads, x.data());
  record();
  k.pixelcnn_code(s, q, context, coders, true, threads, r.output(N * pixels));
  float *first = r.output(N * D), *second = r.output(N * D);
  normal_code(N, D, grid, mean, std, coders, true, first);
  normal_code(N, D, grid, nullptr, nullptr, coders, true, second);
  record();
  const bool same = std::equal(z.begin(), z.end(), back) && std::equal(z.begin(), z.end(), first) &&
                    std::equal(z.begin(), z.end(), second) &&
                    std::equal(x.begin(), x.end(), r.outputs.end()[-4].data());
  if (!same) std::puts("codec: what was pushed does not come back");
}

}  // namespace

int main() {
  const struct {
    const char* name;
    void (*run)(const Kernels&, Run&);
  } cases[] = {{"masked_conv", conv}, {"pixelcnn", pixelcnn}, {"resnet", resnet},           {"dense", dense},
               {"made", made},        {"made_net", made_net}, {"weight_norm", weight_norm}, {"codec", codec}};
  for (Index i = 0; const Kernels* table = usable(i); ++i) {
    const auto hash = [](const Kernels& k, const auto& c) {
      Run run;
      c.run(k, run);
      std::printf("%s %s %016llx\n", k.isa, c.name, static_cast<unsigned long long>(run.hash()));
    };
    for (const auto& c : cases) hash(*table, c);
    if (table->plain != table) hash(*table->plain, std::end(cases)[-1]);
  }
}
