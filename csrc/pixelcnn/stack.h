// A PixelCNN as a row of convolutions, each with what follows it, and the forward pass over a run of pixels.
//
// Stage s turns the activations e_s = elu(.) into e_s+1:
//   v = scale * conv(e_s) + shift,   plus h if the stage closes its residual block (then h = v),   e_s+1 = elu(v).
// e_0 comes from the input convolution, the logit from the last e.
#pragma once
#include "core/convolution.h"

namespace vlae::VLAE_ISA::pixelcnn {

using namespace convolution;

struct Stage {
  Index taps;           // 5 (mask B) or 1 (a 1x1 convolution)
  Index weight_stride;  // floats of a filter: 9 or 1
  const float* weight;  // [C,C,weight_stride], with its first `taps` taps in use
  const float* gain;    // [C] or null
  const float* bias;    // [C]
  bool opens, closes;   // a residual block
  // Made from these by Stack:
  Filter filter = {};
  float *scale = nullptr, *shift = nullptr;  // [padded(C)]
};

// Calls visit(stage) for every stage in order.
template <class Visit>
void for_each_stage(const PixelCNN& s, const PixelCNNParams& p, Visit visit) {
  const Index C = s.C;
  bool opens = true;
  for (Index k = 0; k < s.stages(); ++k) {
    const auto [taps, i, closes] = s.wiring[k];
    if (taps == 5)
      visit(Stage{.taps = 5,
                  .weight_stride = 9,
                  .weight = p.hidden_weight + (s.S == 1 ? 0 : i) * C * C * 9,
                  .gain = p.hidden_gain + i * C,
                  .bias = p.hidden_bias + i * C,
                  .opens = opens,
                  .closes = closes != 0});
    else
      visit(Stage{.taps = 1,
                  .weight_stride = 1,
                  .weight = p.pointwise_weight + i * C * C,
                  .gain = nullptr,
                  .bias = p.pointwise_bias + i * C,
                  .opens = opens,
                  .closes = closes != 0});
    opens = closes != 0;
  }
}

// Planes of the input: the visible pixels, the context, and the whole image for the loss.
struct Input {
  Index K;
  const Layout& layout;
  Array<float> memory;

  Input(const PixelCNN& s, const Layout& layout) : K(s.K), layout(layout), memory((K + 2) * layout.plane) {
    set_zero(memory, (K + 2) * layout.plane);
  }
  float* planes() const { return memory + layout.margin; }
  float* image() const { return planes() + (K + 1) * layout.plane; }

  void read(const PixelCNN& s, Index n, const float* x, const float* context) const {
    const Index pixels = layout.H * layout.W;
    layout.to_plane(x + n * pixels, image());
    for (Index i = 0; i < layout.H; i += s.visible_stride)
      for (Index j = 0; j < layout.W; j += s.visible_stride)
        planes()[i * layout.stride + j] = image()[i * layout.stride + j];
    for (Index k = 0; k < K; ++k) layout.to_plane(context + (n * K + k) * pixels, planes() + (k + 1) * layout.plane);
  }
};

class Stack {
 public:
  const PixelCNN& shape;
  const PixelCNNParams& params;
  const Layout& layout;
  const Index stages;
  const Index plane;   // distance between the planes of activations
  const Index set;     // and between those of two stages
  const Index inputs;  // of the input convolution: 4 taps of the image, 9 of each context channel

  Stack(const PixelCNN& s, const PixelCNNParams& p, const Layout& layout, Index plane)
      : shape(s),
        params(p),
        layout(layout),
        stages(s.stages()),
        plane(plane),
        set(padded(s.C) * plane),
        inputs(4 + 9 * s.K),
        input_offset_(padded_inputs(9 * (1 + s.K))),
        causal_offset_(padded_inputs(5 * s.C)),
        pointwise_offset_(padded_inputs(s.C)),
        stage_(stages),
        factors_((2 * stages + 1) * padded(s.C)),
        weights_(packed_size(inputs, s.C) + s.S * packed_size(5 * s.C, s.C) + 2 * s.P * packed_size(s.C, s.C)),
        inside_(layout.pixels) {
    list_inputs(1 + s.K, 9, 1, layout, layout.plane, input_offset_);
    for (Index i = 4; i < inputs; ++i) input_offset_[i] = input_offset_[i + 5];  // without the image's forbidden taps
    list_inputs(s.C, 5, 1, layout, plane, causal_offset_);
    list_inputs(s.C, 1, 1, layout, plane, pointwise_offset_);
    layout.inside(inside_);

    float* packed = weights_;
    pack_weights(
        inputs, s.C,
        [&](Index o, Index i) { return i < 4 ? p.image_weight[9 * o + i] : p.context_weight[9 * s.K * o + (i - 4)]; },
        packed);
    packed += packed_size(inputs, s.C);
    input_bias_ = factors_ + 2 * stages * padded(s.C);
    for (Index c = 0; c < padded(s.C); ++c) input_bias_[c] = c < s.C ? p.input_bias[c] : 0.0f;

    Stage* stage = stage_;
    float* factors = factors_;
    const float* tied = nullptr;
    for_each_stage(s, p, [&](Stage made) {
      const Index count = made.taps * s.C;
      if (made.taps == 1 || s.S > 1 || !tied) {
        pack_weights(
            count, s.C,
            [&](Index o, Index i) {
              return made.weight[(o * s.C + i / made.taps) * made.weight_stride + i % made.taps];
            },
            packed);
        made.filter.weight = packed;
        if (made.taps == 5) tied = packed;
        packed += packed_size(count, s.C);
      } else {
        made.filter.weight = tied;
      }
      made.filter.inputs = count;
      made.filter.outputs = s.C;
      made.filter.offset = made.taps == 1 ? pointwise_offset_ : causal_offset_;
      const float factor = made.closes ? s.residual_scale : 1.0f;
      made.scale = factors;
      made.shift = factors + padded(s.C);
      factors += 2 * padded(s.C);
      for (Index c = 0; c < padded(s.C); ++c) {
        made.scale[c] = c < s.C ? (made.gain ? factor * made.gain[c] : factor) : 0.0f;
        made.shift[c] = c < s.C ? factor * made.bias[c] : 0.0f;
      }
      *stage++ = made;
    });
  }

  const Stage& stage(Index k) const { return stage_[k]; }
  const std::int32_t* inside() const { return inside_; }
  Filter input_filter() const { return {inputs, shape.C, input_offset_, weights_}; }

  // `count` pixels from pixel q on (multiples of `tile`). in: pixel q of the input planes; e: pixel q of the
  // activations, set after set, where those of the pixels before are still in place; h: [C][count]; logits[count].
  void run(Index q0, Index count, const float* in, float* h, float* e, float* logits) const {
    convolve(input_filter(), in, count, [&](Index o, Index q, Index length, const float* sums) {
      const std::int32_t* const mask = inside_ + q0 + q;
      float *const h_row = h + o * count + q, *const out = e + o * plane + q;
      const float shift = input_bias_[o];
      for (Index k = 0; k < length; k += lanes) {
        const V v = load(sums + k) + shift;
        store(h_row + k, v);
        store(out + k, keep(load_mask(mask + k), elu(v)));
      }
    });
    for (Index s = 0; s < stages; ++s, e += set) {
      const Stage& stage = stage_[s];
      convolve(stage.filter, e, count, [&](Index o, Index q, Index length, const float* sums) {
        const std::int32_t* const mask = inside_ + q0 + q;
        float *const h_row = h + o * count + q, *const out = e + set + o * plane + q;
        const float scale = stage.scale[o], shift = stage.shift[o];
        if (stage.closes)
          for (Index k = 0; k < length; k += lanes) {
            const V v = load(h_row + k) + fma(scale, load(sums + k), broadcast(shift));
            store(h_row + k, v);
            store(out + k, keep(load_mask(mask + k), elu(v)));
          }
        else
          for (Index k = 0; k < length; k += lanes)
            store(out + k, keep(load_mask(mask + k), elu(fma(scale, load(sums + k), broadcast(shift)))));
      });
    }
    for (Index q = 0; q < count; q += lanes) {
      V sum = broadcast(params.output_bias[0]);
      for (Index c = 0; c < shape.C; ++c) sum = fma(params.output_weight[c], load(e + c * plane + q), sum);
      store(logits + q, sum);
    }
  }

 private:
  const Array<Index> input_offset_, causal_offset_, pointwise_offset_;
  const Array<Stage> stage_;
  const Array<float> factors_, weights_;
  const Array<std::int32_t> inside_;
  float* input_bias_;
};

}  // namespace vlae::VLAE_ISA::pixelcnn
