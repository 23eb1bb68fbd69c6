// Draws images from a PixelCNN, each activation computed once.
//
// Pixel (i, j) depends on (i, <j) and on (i-k, <=j+k), so all pixels with equal j + 2i are independent. A lane of the
// vectors stands for one row of one image: with G images and R rows at a time, lane r * G + g draws the rows
// r, r+R, r+2R, ... of image g, two steps behind lane group r-1, one pixel a step and one row every T steps:
//
//     step                 0  1  2  3  4  5  6  7  8  9 10 ...      (R = 2, W = 4, T = 5; "." is idle)
//     lane group 0, row 0  0  1  2  3  .  0  1  2  3  .  0  row 4
//     lane group 1         .  .  0  1  2  3  .  0  1  2  3
//
// R = 1 is raster order with images in the lanes (throughput), G = 1 a pure wavefront (latency); the arithmetic of a
// lane never depends on G or R. What a layer needs of its neighbours is then
//
//     left                          the same lane one step ago
//     up-right, up, up-left         lane group r-1 one, two, three steps ago; for group 0 it is the last group, T - 2R
//                                   steps earlier still
//
// so a ring of four steps is enough, with a queue of T - 2R steps from the last group to the first. The idle step (at
// least one a row) leaves zeros: the zero padding at both edges of the image.
//
// A codec draws in raster order (R = 1): the uniform number of a pixel is the slot of its image's coder.
#include "codec/ans.h"
#include "core/parallel.h"
#include "core/simd.h"
#include "pixelcnn/packed.h"

namespace vlae::VLAE_ISA {

using namespace pixelcnn;

namespace {

// How many images and rows share a vector, and the number of steps from one row of a lane to its next.
struct LanePlan {
  Index G, R, T, vectors;

  static LanePlan make(const PixelCNN& net, Index G, Index vectors, Index most_rows) {
    const Index rows = vectors * lanes / G, R = rows < most_rows ? rows : most_rows;
    return {G, R, net.W + 1 > 2 * R ? net.W + 1 : 2 * R, vectors};
  }
  Index steps(const PixelCNN& net) const {
    const Index last = net.H - 1;
    return last / R * T + 2 * (last % R) + net.W;
  }
};

// The plan with the least work an image for a batch of at most N, and rows of an image at most.
LanePlan best_plan(const PixelCNN& net, Index N, Index max_vectors, Index most_rows) {
  LanePlan best = {};
  float best_cost = 0;
  for (Index vectors = 1; vectors <= max_vectors; ++vectors)
    for (Index G = 1; G <= vectors * lanes && G <= N; ++G) {
      const LanePlan plan = LanePlan::make(net, G, vectors, most_rows);
      const float cost = static_cast<float>(plan.steps(net)) * (vectors == 1 ? 1.1f : 2.0f) / G;
      if (best.G == 0 || cost < best_cost) best = plan, best_cost = cost;
    }
  return best;
}

// acc[b] += sum over k of weight[k][b] * source[k]; the weights are read on.
template <int B, int Q>
inline void accumulate(V (&acc)[B][Q], const float*& weight, const float* source, Index channels, Index stride) {
  for (Index k = 0; k < channels; ++k, weight += B, source += stride) {
    V x[Q];
    for (int q = 0; q < Q; ++q) x[q] = load(source + q * lanes);
    for (int b = 0; b < B; ++b)
      for (int q = 0; q < Q; ++q) acc[b][q] = fma(weight + b, x[q], acc[b][q]);
  }
}

enum class Task { draw, push, pop };

constexpr int code_bits = 16;  // of a pixel's frequency

// The arguments of a call; context, uniforms, given, coders and x are those of its first image.
struct Batch {
  const PixelCNN& net;
  const float *context, *uniforms;  // uniforms: of a coding call, x or anything
  const std::int8_t* given;
  float temperature;
  float* x;  // of a pushing call, frequencies of ink
  Task task = Task::draw;
  Coders coders = {};

  Batch from(Index n) const {
    Batch rest = *this;
    const Index pixels = net.H * net.W;
    rest.context += n * net.K * pixels;
    rest.uniforms += n * pixels;
    if (given) rest.given += n * pixels;
    rest.x += n * pixels;
    if (task != Task::draw)
      rest.coders = {coders.state + n, coders.words + n, coders.stack + n * coders.room, coders.room};
    return rest;
  }
};

// Ink has the first of 2^16 slots, none the others.
inline void push_pixel(Coder coder, std::uint32_t ink, bool is_ink) {
  is_ink ? coder.push(code_bits, 0, ink) : coder.push(code_bits, ink, (1 << code_bits) - ink);
}
inline bool pop_pixel(Coder coder, std::uint32_t ink) {
  const bool is_ink = coder.slot(code_bits) < ink;
  is_ink ? coder.pop(code_bits, 0, ink) : coder.pop(code_bits, ink, (1 << code_bits) - ink);
  return is_ink;
}

// Slots of 2^16 for ink that has probability p, at least one for it and one for none; whole numbers.
inline V frequency(V p) {
  constexpr float all = 1 << code_bits, magic = 12582912.0f;
  const V f = (p * all + magic) - magic, some = f > 1.0f ? f : broadcast(1.0f);
  return some < all - 1 ? some : broadcast(all - 1);
}

// Draws the first G images of a batch, Q vectors of lanes at once.
template <int B, int Q>
class Sampler {
 public:
  Sampler(const Batch& batch, const PackedPixelCNN& packed, const LanePlan& plan)
      : batch_(batch),
        net_(batch.net),
        packed_(packed),
        plan_(plan),
        delay_(plan.T - 2 * plan.R),
        depth_(plan.R == 1 ? delay_ + 4 : 4),
        prefix_(plan.R == 1 ? 0 : lanes),
        stride_(prefix_ + width),
        slot_(packed_.channels * stride_),
        input_slot_((3 * net_.K + 3) * width),
        ring_(depth_ * slot_),
        queue_slot_(packed_.channels * plan.G),
        queue_(plan.R == 1 ? 0 : (delay_ + 1) * queue_slot_),
        inputs_(3 * chunk * input_slot_),
        h_(3 * packed_.C * width),
        local_(2 * packed_.C * stride_) {}

  void run() { net_.C == B ? run<B>() : run<0>(); }

 private:
  static constexpr Index width = Q * lanes;
  static constexpr Index chunk = 8;
  // Values in the place of a uniform number: for pixels that are given, and for lanes that are idle.
  static constexpr float always = -1.0f, never = 2.0f, idle = 3.0f;

  static void fill(float* p, Index n, float value) {
    for (Index i = 0; i < n; ++i) p[i] = value;
  }

  // C is the number of channels if it is known when this is compiled, else 0.
  template <int C>
  void run() {
    fill(ring_.data(), depth_ * slot_, 0);
    if (plan_.R > 1) fill(queue_.data(), (delay_ + 1) * queue_slot_, 0);
    fill(h_.data(), 3 * packed_.C * width, 0);
    fill(inputs_.data(), 3 * chunk * input_slot_, 0);
    const Index steps = plan_.steps(net_);
    fetch(0, chunk);
    for (Index begin = 0; begin < steps; begin += chunk) {
      fetch(begin + chunk, begin + 2 * chunk);
      for (Index s = begin; s < begin + chunk && s < steps; ++s) step<C>(s);
      deliver(begin, begin + chunk);
    }
  }

  // The inputs of a step, rows of `width`: context from the rows above, of and below the pixel [3, K], the uniform
  // numbers, 1 where the network sees the pixel, the pixel drawn.
  float* inputs(Index s) const { return inputs_.data() + (s + 3 * chunk) % (3 * chunk) * input_slot_; }
  float* thresholds(Index s) const { return inputs(s) + 3 * net_.K * width; }
  float* visible(Index s) const { return thresholds(s) + width; }
  float* drawn(Index s) const { return visible(s) + width; }

  // Ring of the activations, one slot of `channels` rows a step; the prefix of a row holds the queue's end, so that
  // reading G floats early shifts the lanes by one group.
  float* slot(Index s) const { return ring_.data() + (s + depth_) % depth_ * slot_ + prefix_; }
  const float* above(Index s) const { return plan_.R == 1 ? slot(s - delay_) : slot(s) - plan_.G; }
  float* queue(Index s) const {
    const Index length = delay_ + 1;
    return queue_.data() + (s + length) % length * queue_slot_;
  }

  // Calls body(lane group, first step, row, first column, count) for every run of pixels in [begin, end).
  template <class Body>
  void for_runs(Index begin, Index end, Body body) const {
    for (Index r = 0; r < plan_.R; ++r)
      for (Index s = begin > 2 * r ? begin : 2 * r; s < end;) {
        const Index t = s - 2 * r, row = t / plan_.T * plan_.R + r, column = t % plan_.T;
        const Index next = s + plan_.T - column;
        Index count = (next < end ? next : end) - s;
        if (column + count > net_.W) count = net_.W - column;
        if (row < net_.H && count > 0) body(r, s, row, column, count);
        s = next;
      }
  }

  // Brings the inputs of the steps [begin, end), a whole chunk, into the lanes.
  void fetch(Index begin, Index end) {
    for (Index s = begin; s < end; ++s) {
      fill(inputs(s), 3 * net_.K * width, 0);
      fill(thresholds(s), width, idle);
      fill(visible(s), width, 0);
    }
    const Index pixels = net_.H * net_.W, stride = net_.visible_stride;
    for_runs(begin, end, [&](Index r, Index s, Index row, Index column, Index count) {
      const Index unseen = row % stride == 0 ? (stride - column % stride) % stride : count;  // before the first seen
      for (Index g = 0; g < plan_.G; ++g) {
        const Index lane = r * plan_.G + g, first = g * pixels + row * net_.W + column;
        for (Index d = row == 0; d < 3 && row + d - 1 < net_.H; ++d)
          for (Index k = 0; k < net_.K; ++k)
            transpose(batch_.context + (g * net_.K + k) * pixels + (row + d - 1) * net_.W + column, count,
                      inputs(s) + (d * net_.K + k) * width + lane);
        transpose(batch_.uniforms + first, count, thresholds(s) + lane);
        if (batch_.given)
          for (Index t = 0; t < count; ++t) {
            const int kept = batch_.given[first + t];
            if (kept >= 0) thresholds(s)[t * input_slot_ + lane] = kept ? always : never;
          }
        for (Index t = unseen; t < count; t += stride) visible(s)[t * input_slot_ + lane] = 1;
      }
    });
  }

  void transpose(const float* row, Index count, float* lane) const {
#pragma GCC unroll 8
    for (Index t = 0; t < count; ++t) lane[t * input_slot_] = row[t];
  }

  // Writes what the steps [begin, end) drew.
  void deliver(Index begin, Index end) {
    for_runs(begin, end, [&](Index r, Index s, Index row, Index column, Index count) {
      for (Index g = 0; g < plan_.G; ++g) {
        float* x = batch_.x + (g * net_.H + row) * net_.W + column;
        const float* from = drawn(s) + r * plan_.G + g;
        for (Index t = 0; t < count; ++t) x[t] = from[t * input_slot_];
      }
    });
  }

  template <int C>
  void step(Index s) {
    const Index channels = C ? C : net_.C, stride = stride_;
    float* const now = slot(s);
    const float* const left = slot(s - 1);
    const float* const up[3] = {above(s - 3), above(s - 2), above(s - 1)};
    if (plan_.R == 1 && s % plan_.T >= net_.W) return fill(now, slot_, 0);
    VInt alive[Q];
    for (int q = 0; q < Q; ++q) alive[q] = load(thresholds(s) + q * lanes) != idle;
    // The input of layer l, elu(h) or elu(f): in the ring if neighbours need it, else in one of two local places.
    const auto own = [&](Index l) {
      return l < packed_.layers && packed_.layer[l].causal() ? now + packed_.layer[l].channel * stride
                                                             : local_.data() + (l & 1) * packed_.C * stride;
    };
    // base + gain * acc + bias is the new h, or f (never read again); its ELU is the input of layer l.
    float *const h = h_.data(), *const f = h + packed_.C * width;
    const float* const zeros = f + packed_.C * width;
    const auto finish = [&](const V(&acc)[B][Q], Index l, Index c, const float* gain, const float* bias,
                            const float* base, float* sum) {
      float* const input = own(l) + c * stride;
#pragma GCC unroll 12
      for (int b = 0; b < B; ++b)
        for (int q = 0; q < Q; ++q) {
          const Index i = (c + b) * width + q * lanes;
          const V y = fma(gain[c + b], acc[b][q], load(base + i) + bias[c + b]);
          store(sum + i, y);
          store(input + b * stride + q * lanes, keep(alive[q], elu(y)));
        }
    };

    const float* weight = packed_.input_weight;
    for (Index c = 0; c < packed_.C; c += B) {
      V acc[B][Q] = {};
      for (Index d = 0; d < 3; ++d)
        for (Index e = -1; e <= 1; ++e) accumulate(acc, weight, inputs(s + e) + d * net_.K * width, net_.K, width);
      for (const float* row : up) accumulate(acc, weight, row, 1, stride);
      accumulate(acc, weight, left, 1, stride);
      finish(acc, 0, c, packed_.input_gain, packed_.input_bias, zeros, h);
    }

    for (Index l = 0; l < packed_.layers; ++l) {
      const PackedLayer& layer = packed_.layer[l];
      const float* weight = layer.weight;
      for (Index c = 0; c < packed_.C; c += B) {
        V acc[B][Q] = {};
        if (layer.causal()) {
          const Index offset = layer.channel * stride;
          for (const float* row : up) accumulate(acc, weight, row + offset, channels, stride);
          accumulate(acc, weight, left + offset, channels, stride);
        }
        accumulate(acc, weight, own(l), channels, stride);
        finish(acc, l + 1, c, layer.gain, layer.bias, layer.closes ? h : zeros, layer.closes ? h : f);
      }
    }

    V logit[1][Q] = {};
    const float* output_weight = packed_.output_weight;
    accumulate(logit, output_weight, own(packed_.layers), channels, stride);
    for (int q = 0; q < Q; ++q) {
      const V u = load(thresholds(s) + q * lanes);
      const V p = sigmoid((logit[0][q] + packed_.output_bias) / batch_.temperature);
      const VInt unknown = (p != p) & (u >= V{}) & (u < 1.0f);  // a NaN shows where it draws, given pixels stay
      V x = unknown ? p : u < (p > V{} ? p : V{}) ? broadcast(1.0f) : V{}, result = x;
      if (batch_.task == Task::push) x = keep(alive[q], u), result = frequency(p);
      if (batch_.task == Task::pop) x = result = pop(q * lanes, frequency(p));
      store(drawn(s) + q * lanes, result);
      store(now + q * lanes, x * load(visible(s) + q * lanes));
    }

    if (plan_.R > 1) plan_.G % lanes == 0 ? hand_on<VUnaligned>(s) : hand_on<float>(s);
  }

  // The next pixels of the images in the lanes from `first` on, of these frequencies of ink.
  V pop(Index first, V ink) const {
    float frequencies[lanes], x[lanes] = {};
    store(frequencies, ink);
    for (Index lane = 0; lane < lanes && first + lane < plan_.G; ++lane) {
      const auto f = static_cast<std::uint32_t>(frequencies[lane]);
      x[lane] = pop_pixel(Coder(batch_.coders, first + lane), f);
    }
    return load(x);
  }

  // Queues what the last lane group computed, and puts what it computed `delay_` steps ago before the first group.
  template <class T>
  void hand_on(Index s) {
    float *const now = slot(s), *const in = queue(s), *const out = queue(s - delay_);
    for (Index g = 0; g < plan_.G; g += sizeof(T) / sizeof(float))
      for (Index m = 0; m < packed_.channels; ++m) {
        const Index i = m * plan_.G + g;
        float* const row = now + m * stride_ + g;
        *reinterpret_cast<T*>(in + i) = *reinterpret_cast<const T*>(row + (plan_.R - 1) * plan_.G);
        *reinterpret_cast<T*>(row - plan_.G) = *reinterpret_cast<const T*>(out + i);
      }
  }

  const Batch batch_;
  const PixelCNN& net_;
  const PackedPixelCNN& packed_;
  const LanePlan plan_;
  const Index delay_, depth_, prefix_, stride_, slot_, input_slot_;
  const Scratch ring_;
  const Index queue_slot_;
  const Scratch queue_, inputs_, h_, local_;
};

// Runs a batch through the sampler, as many images at once as cost the least.
template <int B>
void run(const Batch& all, const PixelCNNParams& params, Index n_threads) {
#ifdef VLAE_FUSED
  constexpr int most = vector_registers >= 32 ? 2 : 1;  // vectors whose accumulators fit into the registers
#else
  constexpr int most = 1;  // nor should products that wait to be added push them out
#endif
  const PixelCNN& net = all.net;
  const PackedPixelCNN packed(net, params, B);
  parallel(n_threads, net.N, 1, [&](Index begin, Index end) {
    while (begin < end) {
      const LanePlan plan = best_plan(net, end - begin, most, all.task == Task::pop ? 1 : net.H);
      const Batch batch = all.from(begin);
      if (plan.vectors == 1)
        Sampler<B, 1>(batch, packed, plan).run();
      else
        Sampler<B, most>(batch, packed, plan).run();
      begin += plan.G;
    }
  });
}

void run(const Batch& batch, const PixelCNNParams& params, Index n_threads) {
  const Index C = batch.net.C;
  if (batch.net.H * batch.net.W == 0) return;
  // Channels are computed in blocks, the last one padded: the block that pads less.
  const auto padded = [&](Index block) { return (C + block - 1) / block * block; };
  padded(12) <= padded(8) ? run<12>(batch, params, n_threads) : run<8>(batch, params, n_threads);
}

}  // namespace

void pixelcnn_sample(const PixelCNN& net, const PixelCNNParams& params, const float* context, const float* uniforms,
                     const std::int8_t* given, float temperature, Index n_threads, float* x) {
  run({net, context, uniforms, given, temperature, x}, params, n_threads);
}

void pixelcnn_code(const PixelCNN& net, const PixelCNNParams& params, const float* context, const Coders& coders,
                   bool pop, Index n_threads, float* x) {
  const Index pixels = net.H * net.W;
  if (pop) {
    const Scratch uniforms(net.N * pixels);
    for (Index i = 0; i < net.N * pixels; ++i) uniforms.data()[i] = 0;
    return run({net, context, uniforms.data(), nullptr, 1.0f, x, Task::pop, coders}, params, n_threads);
  }
  const Scratch ink(net.N * pixels);
  run({net, context, x, nullptr, 1.0f, ink.data(), Task::push, coders}, params, n_threads);
  for (Index n = 0; n < net.N; ++n) {
    for (Index i = (n + 1) * pixels - 1; i >= n * pixels; --i)
      push_pixel(Coder(coders, n), static_cast<std::uint32_t>(ink.data()[i]), x[i] > 0.0f);
  }
}

}  // namespace vlae::VLAE_ISA
