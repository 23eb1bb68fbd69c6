// The masked 3x3 convolution as an operator of its own, one image at a time a thread.
#include "core/convolution.h"

namespace vlae::VLAE_ISA {

using namespace convolution;

namespace {

// The image's planes behind their margins, through ELU if wanted (which keeps the zeros of the borders).
void load_planes(const Layout& layout, Index channels, const float* image, bool through_elu, float* planes) {
  for (Index c = 0; c < channels; ++c) {
    float* const p = planes + c * layout.plane;
    layout.to_plane(image + c * layout.H * layout.W, p);
    if (through_elu)
      for (Index q = 0; q < layout.pixels; q += lanes) store(p + q, elu(load(p + q)));
  }
}

// One image of the backward pass: dx, and what the image adds to the sums over images.
class ImageBackward {
 public:
  ImageBackward(const Conv3x3& s, const Layout& layout, const Filter& forward, const Filter& transposed, const float* x,
                const float* dy, float* dx)
      : s_(s),
        layout_(layout),
        forward_(forward),
        transposed_(transposed),
        x_(x),
        dy_(dy),
        dx_(dx),
        in_(padded(s.C) * layout.plane),
        grad_(padded(s.K) * layout.plane),
        out_(padded(s.C) * layout.plane) {
    set_zero(in_, padded(s.C) * layout.plane);
    set_zero(grad_, padded(s.K) * layout.plane);
  }

  void operator()(Index n, float* sums) const {
    const Index image = layout_.H * layout_.W;
    float *const in = in_ + layout_.margin, *const grad = grad_ + layout_.margin, *const out = out_ + layout_.margin;
    load_planes(layout_, s_.C, x_ + n * s_.C * image, s_.pre_elu, in);
    load_planes(layout_, s_.K, dy_ + n * s_.K * image, false, grad);
    convolve(transposed_, grad, layout_.pixels, [&](Index c, Index q, Index length, const float* sums) {
      const float* const e = in + c * layout_.plane + q;
      float* const to = out + c * layout_.plane + q;
      const bool pre_elu = s_.pre_elu;
      for (Index k = 0; k < length; k += lanes)
        store(to + k, pre_elu ? load(sums + k) * elu_slope(load(e + k)) : load(sums + k));
    });
    for (Index c = 0; c < s_.C; ++c) layout_.to_image(out + c * layout_.plane, dx_ + (n * s_.C + c) * image);
    correlate(forward_, in, grad, layout_.plane, layout_.pixels, sums);
    add_plane_sums(s_.K, grad, layout_.plane, layout_.pixels, sums + 4 * correlation_size(forward_.inputs, s_.K));
  }

 private:
  const Conv3x3& s_;
  const Layout& layout_;
  const Filter &forward_, &transposed_;
  const float *x_, *dy_;
  float* dx_;
  const Array<float> in_, grad_, out_;
};

}  // namespace

void masked_conv3x3(const Conv3x3& s, const float* x, const float* weight, const float* bias, const float* gain,
                    const float* residual, Index n_threads, float* y) {
  const Layout layout(s.H, s.W);
  const Index inputs = s.C * s.taps, image = s.H * s.W;
  const Array<Index> offset(padded_inputs(inputs));
  list_inputs(s.C, s.taps, 1, layout, layout.plane, offset);
  const Array<float> packed(packed_size(inputs, s.K)), shift(padded(s.K));
  pack_weights(
      inputs, s.K,
      [&](Index o, Index i) {
        const float scale = gain ? s.residual_scale * gain[o] : s.residual_scale;
        return scale * weight[(o * s.C + i / s.taps) * 9 + i % s.taps];
      },
      packed);
  for (Index o = 0; o < padded(s.K); ++o) shift[o] = o < s.K ? s.residual_scale * bias[o] : 0.0f;
  const Filter filter = {inputs, s.K, offset, packed};

  parallel(n_threads, s.N, 1, [&](Index begin, Index end) {
    const Array<float> planes(s.C * layout.plane), out(padded(s.K) * layout.pixels);
    set_zero(planes, s.C * layout.plane);
    float* const in = planes + layout.margin;
    for (Index n = begin; n < end; ++n) {
      load_planes(layout, s.C, x + n * s.C * image, s.pre_elu, in);
      convolve(filter, in, layout.pixels, [&](Index o, Index q, Index length, const float* sums) {
        float* const to = out + o * layout.pixels + q;
        const float b = shift[o];
        for (Index k = 0; k < length; k += lanes) store(to + k, load(sums + k) + b);
      });
      for (Index o = 0; o < s.K; ++o) {
        const Index first = (n * s.K + o) * image;
        layout.to_image(out + o * layout.pixels, y + first);
        if (residual)
          for (Index k = first; k < first + image; ++k) y[k] += residual[k];
      }
    }
  });
}

void masked_conv3x3_backward(const Conv3x3& s, const float* dy, const float* x, const float* weight, const float* gain,
                             Index n_threads, float* dx, float* dweight, float* dbias, float* dgain) {
  const Layout layout(s.H, s.W);
  const Index inputs = s.C * s.taps, transposed_inputs = s.K * s.taps;
  const Array<Index> offset(padded_inputs(inputs)), transposed_offset(padded_inputs(transposed_inputs));
  list_inputs(s.C, s.taps, 1, layout, layout.plane, offset);
  list_inputs(s.K, s.taps, -1, layout, layout.plane, transposed_offset);
  const Array<float> packed(packed_size(transposed_inputs, s.C));
  const auto scale = [&](Index o) { return gain ? s.residual_scale * gain[o] : s.residual_scale; };
  pack_weights(
      transposed_inputs, s.C,
      [&](Index c, Index i) {
        const Index o = i / s.taps;
        return scale(o) * weight[(o * s.C + c) * 9 + i % s.taps];
      },
      packed);
  const Filter forward = {inputs, s.K, offset, nullptr},
               transposed = {transposed_inputs, s.C, transposed_offset, packed};

  // First the gradients of conv(mask * weight) itself, from which those of weight and gain follow: dgain is the sum of
  // weight * (gradient without gain), so the convolution need not be computed again.
  const Index weights = correlation_size(inputs, s.K);
  const Array<float> total(weights + padded(s.K));
  sum_over_images(
      s.N, n_threads, weights + padded(s.K), [&] { return ImageBackward(s, layout, forward, transposed, x, dy, dx); },
      total);
  set_zero(dweight, s.K * s.C * 9);
  for (Index o = 0; o < s.K; ++o) {
    float along_gain = 0.0f;
    for (Index i = 0; i < inputs; ++i) {
      const Index at = (o * s.C + i / s.taps) * 9 + i % s.taps;
      const float d = total[correlation_index(inputs, o, i)];
      along_gain += weight[at] * d;
      dweight[at] = scale(o) * d;
    }
    if (gain) dgain[o] = s.residual_scale * along_gain;
    dbias[o] = s.residual_scale * total[weights + o];
  }
}

}  // namespace vlae::VLAE_ISA
