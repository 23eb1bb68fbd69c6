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
#include "parallel.h"
#include "pixelcnn_packed.h"
#include "simd.h"

namespace vlae::VLAE_ISA {
namespace {

// How many images and rows share a vector, and the number of steps from one row of a lane to its next.
struct LanePlan {
  Index G, R, T, vectors;

  static LanePlan make(const PixelCNN& net, Index G, Index vectors) {
    const Index rows = vectors * lanes / G, R = rows < net.H ? rows : net.H;
    return {G, R, net.W + 1 > 2 * R ? net.W + 1 : 2 * R, vectors};
  }
  Index steps(const PixelCNN& net) const {
    const Index last = net.H - 1;
    return last / R * T + 2 * (last % R) + net.W;
  }
};

// The plan with the least work an image for a batch of at most N.
LanePlan best_plan(const PixelCNN& net, Index N, Index max_vectors) {
  LanePlan best = {};
  float best_cost = 0;
  for (Index vectors = 1; vectors <= max_vectors; ++vectors)
    for (Index G = 1; G <= vectors * lanes && G <= N; ++G) {
      const LanePlan plan = LanePlan::make(net, G, vectors);
      const float cost = static_cast<float>(plan.steps(net)) * (vectors == 1 ? 1.2f : 2.0f) / G;
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
      for (int q = 0; q < Q; ++q) acc[b][q] += weight[b] * x[q];
  }
}

// Draws G images: B channels at a time, Q vectors of lanes.
template <int B, int Q, bool Fixed>
class Sampler {
 public:
  Sampler(const PixelCNN& net, const PackedPixelCNN& packed, const LanePlan& plan, const float* context,
          const float* uniforms, const std::int8_t* given, float temperature, float* x)
      : net_(net),
        packed_(packed),
        plan_(plan),
        context_(context),
        uniforms_(uniforms),
        given_(given),
        x_(x),
        temperature_(temperature),
        delay_(plan.T - 2 * plan.R),
        depth_(plan.R == 1 ? delay_ + 4 : 4),
        prefix_(plan.R == 1 ? 0 : lanes),
        stride_(prefix_ + width),
        slot_(packed.channels * stride_),
        input_slot_((3 * net.K + 3) * width),
        ring_(depth_ * slot_),
        queue_slot_(packed.channels * plan.G),
        queue_(plan.R == 1 ? 0 : (delay_ + 1) * queue_slot_),
        inputs_(3 * chunk * input_slot_),
        h_(3 * packed.C * width),
        local_(2 * packed.C * stride_) {}

  void run() {
    zero(ring_.data(), depth_ * slot_);
    if (plan_.R > 1) zero(queue_.data(), (delay_ + 1) * queue_slot_);
    zero(h_.data(), 3 * packed_.C * width);
    zero(inputs_.data(), 3 * chunk * input_slot_);
    const Index steps = plan_.steps(net_);
    fetch(0, chunk);
    for (Index begin = 0; begin < steps; begin += chunk) {
      fetch(begin + chunk, begin + 2 * chunk);
      for (Index s = begin; s < begin + chunk && s < steps; ++s) step(s);
      deliver(begin, begin + chunk);
    }
  }

 private:
  static constexpr Index width = Q * lanes;
  static constexpr Index chunk = 8;
  // Values in the place of a uniform number: for pixels that are given, and for lanes that are idle.
  static constexpr float always = -1.0f, never = 2.0f, idle = 3.0f;

  static void zero(float* p, Index n) {
    for (Index i = 0; i < n; ++i) p[i] = 0;
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

  // Brings the inputs of the steps [begin, end) into the lanes.
  void fetch(Index begin, Index end) {
    for (Index s = begin; s < end; ++s) {
      zero(inputs(s), 3 * net_.K * width);
      for (Index lane = 0; lane < width; ++lane) thresholds(s)[lane] = idle;
    }
    const Index pixels = net_.H * net_.W;
    for_runs(begin, end, [&](Index r, Index s, Index row, Index column, Index count) {
      for (Index g = 0; g < plan_.G; ++g) {
        const Index lane = r * plan_.G + g;
        for (Index d = row == 0; d < 3 && row + d - 1 < net_.H; ++d)
          for (Index k = 0; k < net_.K; ++k) {
            const float* source = context_ + (g * net_.K + k) * pixels + (row + d - 1) * net_.W + column;
            float* to = inputs(s) + (d * net_.K + k) * width + lane;
            for (Index t = 0; t < count; ++t) to[t * input_slot_] = source[t];
          }
        const Index first = g * pixels + row * net_.W + column;
        float *const threshold = thresholds(s) + lane, *const seen = visible(s) + lane;
        for (Index t = 0; t < count; ++t) {
          const int kept = given_ ? given_[first + t] : -1;
          threshold[t * input_slot_] = kept < 0 ? uniforms_[first + t] : kept ? always : never;
          seen[t * input_slot_] = row % net_.visible_stride == 0 && (column + t) % net_.visible_stride == 0;
        }
      }
    });
  }

  // Writes what the steps [begin, end) drew.
  void deliver(Index begin, Index end) {
    for_runs(begin, end, [&](Index r, Index s, Index row, Index column, Index count) {
      for (Index g = 0; g < plan_.G; ++g) {
        float* x = x_ + (g * net_.H + row) * net_.W + column;
        const float* from = drawn(s) + r * plan_.G + g;
        for (Index t = 0; t < count; ++t) x[t] = from[t * input_slot_];
      }
    });
  }

  void step(Index s) {
    const Index channels = Fixed ? B : net_.C;
    float* const now = slot(s);
    const float* const left = slot(s - 1);
    const float* const up[3] = {above(s - 3), above(s - 2), above(s - 1)};
    if (plan_.R == 1 && s % plan_.T >= net_.W) return zero(now, slot_);
    VInt alive[Q];
    for (int q = 0; q < Q; ++q) alive[q] = load(thresholds(s) + q * lanes) != idle;
    // The input of layer l, elu(h) or elu(f): in the ring if neighbours need it, else in one of two local places.
    const auto own = [&](Index l) {
      return l < packed_.layers && packed_.layer[l].causal() ? now + packed_.layer[l].channel * stride_
                                                             : local_.data() + (l & 1) * packed_.C * stride_;
    };
    // gain * acc + bias is f, or h grows by it; the ELU of the result is the input of layer l.
    float *const h = h_.data(), *const f = h + packed_.C * width;
    const float* const zeros = f + packed_.C * width;
    const auto finish = [&](const V(&acc)[B][Q], Index l, Index c, const float* gain, const float* bias, bool adds) {
      const float* const base = (adds ? h : zeros) + c * width;
      float *const sum = (adds ? h : f) + c * width, *const input = own(l) + c * stride_;
#pragma GCC unroll 12
      for (int b = 0; b < B; ++b)
        for (int q = 0; q < Q; ++q) {
          V y = load(base + b * width + q * lanes) + bias[c + b];
          y += gain[c + b] * acc[b][q];
          store(sum + b * width + q * lanes, y);
          store(input + b * stride_ + q * lanes, keep(alive[q], elu(y)));
        }
    };

    zero(h, packed_.C * width);
    const float* weight = packed_.input_weight;
    for (Index c = 0; c < packed_.C; c += B) {
      V acc[B][Q] = {};
      for (Index d = 0; d < 3; ++d)
        for (Index e = -1; e <= 1; ++e) accumulate(acc, weight, inputs(s + e) + d * net_.K * width, net_.K, width);
      for (const float* row : up) accumulate(acc, weight, row, 1, stride_);
      accumulate(acc, weight, left, 1, stride_);
      finish(acc, 0, c, packed_.input_gain, packed_.input_bias, true);
    }

    for (Index l = 0; l < packed_.layers; ++l) {
      const PackedLayer& layer = packed_.layer[l];
      const float* weight = layer.weight;
      for (Index c = 0; c < packed_.C; c += B) {
        V acc[B][Q] = {};
        if (layer.causal()) {
          const Index offset = layer.channel * stride_;
          for (const float* row : up) accumulate(acc, weight, row + offset, channels, stride_);
          accumulate(acc, weight, left + offset, channels, stride_);
        }
        accumulate(acc, weight, own(l), channels, stride_);
        finish(acc, l + 1, c, layer.gain, layer.bias, layer.closes);
      }
    }

    V logit[1][Q] = {};
    const float* output_weight = packed_.output_weight;
    accumulate(logit, output_weight, own(packed_.layers), channels, stride_);
    for (int q = 0; q < Q; ++q) {
      const V u = load(thresholds(s) + q * lanes);
      const V p = sigmoid((logit[0][q] + packed_.output_bias) / temperature_);
      const V x = u < (p > V{} ? p : V{}) ? broadcast(1.0f) : V{};  // a NaN draws 0 and leaves given pixels alone
      store(drawn(s) + q * lanes, x);
      store(now + q * lanes, x * load(visible(s) + q * lanes));
    }

    if (plan_.R > 1) plan_.G % lanes == 0 ? hand_on<VUnaligned>(s) : hand_on<float>(s);
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

  const PixelCNN& net_;
  const PackedPixelCNN& packed_;
  const LanePlan plan_;
  const float* const context_;
  const float* const uniforms_;
  const std::int8_t* const given_;
  float* const x_;
  const float temperature_;
  const Index delay_, depth_, prefix_, stride_, slot_, input_slot_;
  const Scratch ring_;
  const Index queue_slot_;
  const Scratch queue_, inputs_, h_, local_;
};

template <int B>
void sample(const PixelCNN& net, const PixelCNNParams& params, const float* context, const float* uniforms,
            const std::int8_t* given, float temperature, Index n_threads, float* x) {
  constexpr int most = vector_registers >= 32 ? 2 : 1;  // vectors whose accumulators fit into the registers
  const PackedPixelCNN packed(net, params, B);
  const Index pixels = net.H * net.W;
  parallel(n_threads, net.N, 1, [&](Index begin, Index end) {
    while (begin < end) {
      const LanePlan plan = best_plan(net, end - begin, most);
      const Index first = begin * pixels;
      const auto draw = [&](auto sampler) { sampler.run(); };
      const std::int8_t* const kept = given ? given + first : nullptr;
      if (net.C == B && plan.vectors == most)
        draw(Sampler<B, most, true>(net, packed, plan, context + first * net.K, uniforms + first, kept, temperature,
                                    x + first));
      else if (net.C == B)
        draw(Sampler<B, 1, true>(net, packed, plan, context + first * net.K, uniforms + first, kept, temperature,
                                 x + first));
      else if (plan.vectors == most)
        draw(Sampler<B, most, false>(net, packed, plan, context + first * net.K, uniforms + first, kept, temperature,
                                     x + first));
      else
        draw(Sampler<B, 1, false>(net, packed, plan, context + first * net.K, uniforms + first, kept, temperature,
                                  x + first));
      begin += plan.G;
    }
  });
}

}  // namespace

void pixelcnn_sample(const PixelCNN& net, const PixelCNNParams& params, const float* context, const float* uniforms,
                     const std::int8_t* given, float temperature, Index n_threads, float* x) {
  // Channels are computed in blocks, the last one padded: the block that pads less.
  const auto padded = [&](Index block) { return (net.C + block - 1) / block * block; };
  (padded(12) <= padded(8) ? sample<12> : sample<8>)(net, params, context, uniforms, given, temperature, n_threads, x);
}

}  // namespace vlae::VLAE_ISA
