// All gradients of the stack, one image at a time a thread: the activations of every stage anew, then the stages
// backwards, each over the whole image.
#include "pixelcnn/stack.h"

namespace vlae::VLAE_ISA {

using namespace pixelcnn;

namespace {

// The stack with what its backward pass needs: the filters of the transposed convolutions (scale folded in).
struct BackwardStack : Stack {
  const Index transposed_inputs;  // of the input convolution, over all 9 taps
  const Array<Index> input_offset, causal_offset, pointwise_offset;
  const Array<float> weights;
  const Array<Filter> transposed;  // [stages]
  Filter transposed_input;
  Index input_sums, size;  // where in the sums over images the input convolution begins; all of them

  BackwardStack(const PixelCNN& s, const PixelCNNParams& p, const Layout& layout)
      : Stack(s, p, layout, layout.plane),
        transposed_inputs(9 * s.C),
        input_offset(padded_inputs(9 * s.C)),
        causal_offset(padded_inputs(5 * s.C)),
        pointwise_offset(padded_inputs(s.C)),
        weights(packed_size(9 * s.C, 1 + s.K) + s.L * packed_size(5 * s.C, s.C) + 2 * s.P * packed_size(s.C, s.C)),
        transposed(stages) {
    list_inputs(s.C, 9, -1, layout, plane, input_offset);
    list_inputs(s.C, 5, -1, layout, plane, causal_offset);
    list_inputs(s.C, 1, -1, layout, plane, pointwise_offset);
    float* packed = weights;
    pack_weights(
        9 * s.C, 1 + s.K,
        [&](Index k, Index i) {
          const Index c = i / 9, tap = i % 9;
          if (k > 0) return p.context_weight[(c * s.K + k - 1) * 9 + tap];
          return tap < 4 ? p.image_weight[c * 9 + tap] : 0.0f;
        },
        packed);
    transposed_input = {9 * s.C, 1 + s.K, input_offset, packed};
    packed += packed_size(9 * s.C, 1 + s.K);
    input_sums = 0;
    for (Index k = 0; k < stages; ++k) {
      const Stage& t = stage(k);
      const Index count = t.taps * s.C;
      pack_weights(
          count, s.C,
          [&](Index c, Index i) {
            const Index o = i / t.taps;
            return t.scale[o] * t.weight[(o * s.C + c) * t.weight_stride + i % t.taps];
          },
          packed);
      transposed[k] = {count, s.C, t.taps == 1 ? pointwise_offset : causal_offset, packed};
      packed += packed_size(count, s.C);
      input_sums += stage_size(k);
    }
    size = input_sums + correlation_size(inputs, s.C) + padded(s.C) + padded(s.C) + 1;
  }
  // The sums of a stage: those of its weights, then those of its bias. Behind the stages those of the input
  // convolution in the same way, those of the output weights and that of the output bias.
  Index stage_size(Index k) const { return correlation_size(stage(k).filter.inputs, shape.C) + padded(shape.C); }
};

class ImageBackward {
 public:
  ImageBackward(const BackwardStack& stack, const float* x, const float* context, const float* dlogits,
                const float* dlog_prob, float* dx, float* dcontext)
      : stack_(stack),
        x_(x),
        context_(context),
        dlogits_(dlogits),
        dlog_prob_(dlog_prob),
        dx_(dx),
        dcontext_(dcontext),
        input_(stack.shape, stack.layout),
        e_((stack.stages + 1) * stack.set),
        grads_(3 * stack.set),
        h_(padded(stack.shape.C) * run_pixels),
        logits_(stack.layout.pixels),
        dlogit_(stack.layout.pixels),
        dinput_(padded(1 + stack.shape.K) * stack.layout.plane) {
    set_zero(e_, (stack.stages + 1) * stack.set);
    set_zero(grads_, 3 * stack.set);
    set_zero(dlogit_, stack.layout.pixels);
  }

  void operator()(Index n, float* sums) const {
    const Layout& layout = stack_.layout;
    const PixelCNN& s = stack_.shape;
    const Index pixels = layout.pixels, plane = layout.plane, C = s.C;
    input_.read(s, n, x_, context_);
    for (Index q = 0; q < pixels; q += run_pixels) {
      const Index count = pixels - q < run_pixels ? pixels - q : run_pixels;
      stack_.run(q, count, input_.planes() + q, h_, e_ + layout.margin + q, logits_ + q);
    }
    read_dlogit(n);

    // dh: gradient of the residual stream behind a stage; grad: gradient of the stage's own output, the same for a
    // stage that closes its block. Of the three buffers one is always free to write to.
    const float* e = e_ + layout.margin + stack_.stages * stack_.set;
    float *dh = grads_ + layout.margin, *grad = dh, *first_free = dh + stack_.set,
          *second_free = first_free + stack_.set;
    float* const output_sums = sums + 4 * (stack_.size - padded(C) - 1);
    for (Index c = 0; c < C; ++c) {
      const float weight = stack_.params.output_weight[c];
      Wide sum = {};
      for (Index q = 0; q < pixels; q += lanes) {
        const V d = load(dlogit_ + q), a = load(e + c * plane + q);
        V& part = sum.part[q % 16 / lanes];
        part = fma(d, a, part);
        store(dh + c * plane + q, weight * d * elu_slope(a));
      }
      add_folded(sum, output_sums + 4 * c);
    }
    add_plane_sums(1, dlogit_, pixels, pixels, output_sums + 4 * padded(C));

    float* stage_sums = sums + 4 * stack_.input_sums;
    for (Index k = stack_.stages - 1; k >= 0; --k) {
      const Stage& stage = stack_.stage(k);
      e -= stack_.set;
      stage_sums -= 4 * stack_.stage_size(k);
      add_sums(stage.filter, e, grad, stage_sums);
      float* const out = first_free;
      convolve(stack_.transposed[k], grad, pixels, [&](Index c, Index q, Index length, const float* from) {
        const Index at = c * plane + q;
        const float *const activation = e + at, *const skip = dh + at;
        float* const to = out + at;
        const std::int32_t* const mask = stack_.inside() + q;
        const bool opens = stage.opens;
        for (Index i = 0; i < length; i += lanes) {
          const V d = keep(load_mask(mask + i), load(from + i) * elu_slope(load(activation + i)));
          store(to + i, opens ? load(skip + i) + d : d);
        }
      });
      if (stage.opens) {
        first_free = dh;
        if (grad != dh) second_free = grad;
        dh = grad = out;
      } else {
        first_free = grad == dh ? second_free : grad;
        grad = out;
      }
    }

    add_sums(stack_.input_filter(), input_.planes(), dh, sums + 4 * stack_.input_sums);
    convolve(stack_.transposed_input, dh, pixels, [&](Index k, Index q, Index length, const float* from) {
      __builtin_memcpy(dinput_ + k * plane + q, from, length * sizeof(float));
    });
    write_dx(n);
    for (Index k = 0; k < s.K; ++k) layout.to_image(dinput_ + (1 + k) * plane, dcontext_ + (n * s.K + k) * s.H * s.W);
  }

 private:
  static constexpr Index run_pixels = 8 * tile;

  void add_sums(const Filter& filter, const float* in, const float* grad, float* sums) const {
    const Layout& layout = stack_.layout;
    correlate(filter, in, grad, layout.plane, layout.pixels, sums);
    add_plane_sums(stack_.shape.C, grad, layout.plane, layout.pixels,
                   sums + 4 * correlation_size(filter.inputs, stack_.shape.C));
  }

  void read_dlogit(Index n) const {
    const Layout& layout = stack_.layout;
    if (dlogits_) {
      layout.to_plane(dlogits_ + n * layout.H * layout.W, dlogit_);
    } else {
      for (Index q = 0; q < layout.pixels; q += lanes) {
        const V d = dlog_prob_[n] * (load(input_.image() + q) - sigmoid(load(logits_ + q)));
        store(dlogit_ + q, keep(load_mask(stack_.inside() + q), d));
      }
    }
  }

  // Through the network where a pixel is visible to it, and through x * logit of the log-likelihood.
  void write_dx(Index n) const {
    const Layout& layout = stack_.layout;
    const Index stride = stack_.shape.visible_stride;
    float* dx = dx_ + n * layout.H * layout.W;
    for (Index i = 0; i < layout.H; ++i)
      for (Index j = 0; j < layout.W; ++j, ++dx) {
        const Index q = i * layout.stride + j;
        const bool visible = i % stride == 0 && j % stride == 0;
        *dx = (visible ? dinput_[q] : 0.0f) + (dlog_prob_ ? dlog_prob_[n] * logits_[q] : 0.0f);
      }
  }

  const BackwardStack& stack_;
  const float *x_, *context_, *dlogits_, *dlog_prob_;
  float *dx_, *dcontext_;
  const Input input_;
  const Array<float> e_, grads_, h_, logits_, dlogit_, dinput_;
};

}  // namespace

void pixelcnn_backward(const PixelCNN& s, const PixelCNNParams& p, const float* x, const float* context,
                       const float* dlogits, const float* dlog_prob, Index n_threads, float* dx, float* dcontext,
                       const PixelCNNGrads& grads) {
  const Index C = s.C, K = s.K;
  const Layout layout(s.H, s.W);
  const BackwardStack stack(s, p, layout);
  const Array<float> total(stack.size);
  sum_over_images(
      s.N, n_threads, stack.size, [&] { return ImageBackward(stack, x, context, dlogits, dlog_prob, dx, dcontext); },
      total);

  set_zero(grads.hidden_weight, s.S * C * C * 9);
  set_zero(grads.pointwise_weight, s.P * 2 * C * C);
  const float* sums = total;
  for (Index k = 0; k < stack.stages; ++k) {
    // The sums are the gradients of the convolution itself; that of its gain is the sum of weight * gradient.
    const Stage& stage = stack.stage(k);
    const bool hidden = stage.gain;
    float* const dweight = hidden ? grads.hidden_weight + (stage.weight - p.hidden_weight)
                                  : grads.pointwise_weight + (stage.weight - p.pointwise_weight);
    float* const dbias = hidden ? grads.hidden_bias + (stage.bias - p.hidden_bias)
                                : grads.pointwise_bias + (stage.bias - p.pointwise_bias);
    const float* const bias_sums = sums + correlation_size(stage.filter.inputs, C);
    const float factor = stage.closes ? s.residual_scale : 1.0f;
    for (Index o = 0; o < C; ++o) {
      float along_gain = 0.0f;
      for (Index i = 0; i < stage.filter.inputs; ++i) {
        const Index at = (o * C + i / stage.taps) * stage.weight_stride + i % stage.taps;
        const float d = sums[correlation_index(stage.filter.inputs, o, i)];
        along_gain += stage.weight[at] * d;
        dweight[at] += stage.scale[o] * d;
      }
      if (hidden) grads.hidden_gain[stage.gain - p.hidden_gain + o] = factor * along_gain;
      dbias[o] = factor * bias_sums[o];
    }
    sums += stack.stage_size(k);
  }

  set_zero(grads.image_weight, C * 9);
  for (Index o = 0; o < C; ++o) {
    for (Index i = 0; i < 4; ++i) grads.image_weight[9 * o + i] = sums[correlation_index(stack.inputs, o, i)];
    for (Index i = 0; i < 9 * K; ++i)
      grads.context_weight[9 * K * o + i] = sums[correlation_index(stack.inputs, o, 4 + i)];
  }
  sums += correlation_size(stack.inputs, C);
  for (Index o = 0; o < C; ++o) grads.input_bias[o] = sums[o];
  sums += padded(C);
  for (Index o = 0; o < C; ++o) grads.output_weight[o] = sums[o];
  grads.output_bias[0] = sums[padded(C)];
}

}  // namespace vlae::VLAE_ISA
