// The layers of a PixelCNN in the order in which a pixel runs through them, weights laid out as the sampler reads them.
#pragma once
#include "core/parallel.h"

namespace vlae::VLAE_ISA::pixelcnn {

// One 3x3 or 1x1 convolution of elu(h) or elu(f): (h or 0) + gain * conv + bias becomes the new h or f.
struct PackedLayer {
  bool closes;    // last of its residual block: it adds to h (the residual scale is in gain and bias), else it sets f
  Index channel;  // first of its C inputs among all that neighbours need; -1 for a 1x1 convolution
  const float* weight;  // [C / B][taps in raster order][C in][B]
  const float *gain, *bias;

  bool causal() const { return channel >= 0; }
};

struct PackedPixelCNN {
  PackedPixelCNN(const PixelCNN& net, const PixelCNNParams& params, Index B)
      : C((net.C + B - 1) / B * B),
        channels(1 + net.L * C),
        layers(net.stages()),
        layer(layers),
        output_weight(params.output_weight),
        output_bias(params.output_bias[0]),
        B_(B),
        net_(net),
        memory_(C * (9 * net.K + 4 + 2) + layers * C * (5 * net.C + 2)),
        end_(memory_.data()) {
    input_weight = end_;
    for (Index c = 0; c < C; c += B) {
      block(params.context_weight, c, net.K, 9, 9);
      block(params.image_weight, c, 1, 4, 9);
    }
    input_gain = vector([](Index) { return 1.0f; });
    input_bias = vector([&](Index c) { return params.input_bias[c]; });

    for (Index k = 0; k < layers; ++k) {
      const auto [taps, i, closes] = net.wiring[k];
      layer[k] = taps == 5 ? pack(closes, 1 + i * C, params.hidden_weight + (net.S == 1 ? 0 : i) * net.C * net.C * 9, 5,
                                  9, params.hidden_gain + i * net.C, params.hidden_bias + i * net.C)
                           : pack(closes, -1, params.pointwise_weight + i * net.C * net.C, 1, 1, nullptr,
                                  params.pointwise_bias + i * net.C);
    }
  }

  const Index C;         // padded to whole blocks of B
  const Index channels;  // all that neighbours need: the image, then the inputs of the L mask-B layers
  const Index layers;
  const Array<PackedLayer> layer;
  const float* input_weight;  // [C / B][9 taps x K context, 4 taps of the image][B]
  const float *input_gain, *input_bias;
  const float* const output_weight;
  const float output_bias;

 private:
  // Appends outputs first..first+B of weight[out, in, stored taps] as [taps][in][B].
  void block(const float* weight, Index first, Index inputs, Index taps, Index stored_taps) {
    for (Index tap = 0; tap < taps; ++tap)
      for (Index k = 0; k < inputs; ++k)
        for (Index c = first; c < first + B_; ++c)
          *end_++ = c < net_.C ? weight[(c * inputs + k) * stored_taps + tap] : 0.0f;
  }

  template <class Value>
  const float* vector(Value value) {
    const float* const begin = end_;
    for (Index c = 0; c < C; ++c) *end_++ = c < net_.C ? value(c) : 0.0f;
    return begin;
  }

  PackedLayer pack(bool closes, Index channel, const float* weight, Index taps, Index stored_taps, const float* gain,
                   const float* bias) {
    const float* const packed_weight = end_;
    for (Index c = 0; c < C; c += B_) block(weight, c, net_.C, taps, stored_taps);
    const float scale = closes ? net_.residual_scale : 1.0f;
    const float* const packed_gain = vector([&](Index c) { return scale * (gain ? gain[c] : 1.0f); });
    return {closes, channel, packed_weight, packed_gain, vector([&](Index c) { return scale * bias[c]; })};
  }

  const Index B_;
  const PixelCNN& net_;
  const Scratch memory_;
  float* end_;
};

}  // namespace vlae::VLAE_ISA::pixelcnn
