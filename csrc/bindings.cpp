// Thin: sizes and addresses in, one call out. Shapes, types and values are checked in Python (vlae_fast/native.py).
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/vector.h>

#include "vlae.h"

namespace nb = nanobind;
using vlae::Index;

namespace {

using Address = std::uintptr_t;

template <class T = const float>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

struct PixelCNNArgs {
  std::array<Index, 10> sizes;  // N H W C K L P S, block_convs, visible_stride
  float residual_scale;
  std::vector<Index> pointwise_after;

  vlae::PixelCNN shape() const {
    const auto& n = sizes;
    return {.N = n[0],
            .H = n[1],
            .W = n[2],
            .C = n[3],
            .K = n[4],
            .L = n[5],
            .P = n[6],
            .S = n[7],
            .residual_scale = residual_scale,
            .block_convs = n[8],
            .visible_stride = n[9],
            .pointwise_after = pointwise_after.data()};
  }
};

using Addresses10 = std::array<Address, 10>;

vlae::PixelCNNParams pixelcnn_params(const Addresses10& a) {
  return {at(a[0]), at(a[1]), at(a[2]), at(a[3]), at(a[4]), at(a[5]), at(a[6]), at(a[7]), at(a[8]), at(a[9])};
}

vlae::PixelCNNGrads pixelcnn_grads(const Addresses10& a) {
  const auto p = [&](int i) { return at<float>(a[i]); };
  return {p(0), p(1), p(2), p(3), p(4), p(5), p(6), p(7), p(8), p(9)};
}

using Addresses6 = std::array<Address, 6>;
using Addresses7 = std::array<Address, 7>;

vlae::MADEFlow made_shape(const std::array<Index, 4>& n, bool scale) { return {n[0], n[1], n[2], n[3], scale}; }

vlae::MADEFlowParams made_params(const Addresses7& a) {
  return {at(a[0]), at(a[1]), at(a[2]), at(a[3]), at(a[4]), at(a[5]), at<const std::int64_t>(a[6])};
}

vlae::MADEFlowGrads made_grads(const Addresses6& a) {
  const auto p = [&](int i) { return at<float>(a[i]); };
  return {p(0), p(1), p(2), p(3), p(4), p(5)};
}

vlae::Conv3x3 conv_shape(const std::array<Index, 6>& n, bool pre_elu, float residual_scale) {
  return {n[0], n[1], n[2], n[3], n[4], n[5], pre_elu, residual_scale};
}

}  // namespace

NB_MODULE(_native, m) {
  const auto nogil = nb::call_guard<nb::gil_scoped_release>();
  vlae::kernels();  // an unusable VLAE_FAST_ISA is an ImportError, not a crash later

  m.def("isa", [] { return vlae::kernels().isa; });
  m.def("usable_isas", [] {
    std::vector<const char*> names;
    for (Index i = 0; const vlae::Kernels* table = vlae::usable(i); ++i) names.push_back(table->isa);
    return names;
  });

  m.def(
      "masked_conv3x3",
      [](std::array<Index, 6> sizes, bool pre_elu, float residual_scale, Address x, Address weight, Address bias,
         Address gain, Address residual, Index n_threads, Address y) {
        vlae::kernels().masked_conv3x3(conv_shape(sizes, pre_elu, residual_scale), at(x), at(weight), at(bias),
                                       at(gain), at(residual), n_threads, at<float>(y));
      },
      nogil);
  m.def(
      "masked_conv3x3_backward",
      [](std::array<Index, 6> sizes, bool pre_elu, float residual_scale, Address dy, Address x, Address weight,
         Address gain, Index n_threads, Address dx, Address dweight, Address dbias, Address dgain) {
        vlae::kernels().masked_conv3x3_backward(conv_shape(sizes, pre_elu, residual_scale), at(dy), at(x), at(weight),
                                                at(gain), n_threads, at<float>(dx), at<float>(dweight),
                                                at<float>(dbias), at<float>(dgain));
      },
      nogil);

  nb::class_<PixelCNNArgs>(m, "PixelCNNArgs")
      .def("__init__", [](PixelCNNArgs* self, std::array<Index, 10> sizes, float residual_scale,
                          std::vector<Index> pointwise_after) {
        new (self) PixelCNNArgs{sizes, residual_scale, std::move(pointwise_after)};
      });
  m.def(
      "pixelcnn_logits",
      [](const PixelCNNArgs& args, Addresses10 params, Address x, Address context, Index n_threads, Address logits) {
        vlae::kernels().pixelcnn_logits(args.shape(), pixelcnn_params(params), at(x), at(context), n_threads,
                                        at<float>(logits));
      },
      nogil);
  m.def(
      "pixelcnn_log_prob",
      [](const PixelCNNArgs& args, Addresses10 params, Address x, Address context, Index n_threads, Address log_prob) {
        vlae::kernels().pixelcnn_log_prob(args.shape(), pixelcnn_params(params), at(x), at(context), n_threads,
                                          at<float>(log_prob));
      },
      nogil);
  m.def(
      "pixelcnn_backward",
      [](const PixelCNNArgs& args, Addresses10 params, Address x, Address context, Address dlogits, Address dlog_prob,
         Index n_threads, Address dx, Address dcontext, Addresses10 grads) {
        vlae::kernels().pixelcnn_backward(args.shape(), pixelcnn_params(params), at(x), at(context), at(dlogits),
                                          at(dlog_prob), n_threads, at<float>(dx), at<float>(dcontext),
                                          pixelcnn_grads(grads));
      },
      nogil);
  m.def(
      "pixelcnn_sample",
      [](const PixelCNNArgs& args, Addresses10 params, Address context, Address uniforms, Address given,
         float temperature, Index n_threads, Address x) {
        vlae::kernels().pixelcnn_sample(args.shape(), pixelcnn_params(params), at(context), at(uniforms),
                                        at<const std::int8_t>(given), temperature, n_threads, at<float>(x));
      },
      nogil);

  m.def(
      "made_flow_forward",
      [](std::array<Index, 4> sizes, bool scale, Addresses7 params, Address z, Address hidden_context, Index n_threads,
         Address eps, Address log_det) {
        vlae::kernels().made_flow_forward(made_shape(sizes, scale), made_params(params), at(z), at(hidden_context),
                                          n_threads, at<float>(eps), at<float>(log_det));
      },
      nogil);
  m.def(
      "made_flow_backward",
      [](std::array<Index, 4> sizes, bool scale, Addresses7 params, Address z, Address hidden_context, Address deps,
         Address dlog_det, Index n_threads, Address dz, Address dhidden_context, Addresses6 grads) {
        vlae::kernels().made_flow_backward(made_shape(sizes, scale), made_params(params), at(z), at(hidden_context),
                                           at(deps), at(dlog_det), n_threads, at<float>(dz), at<float>(dhidden_context),
                                           made_grads(grads));
      },
      nogil);
  m.def(
      "made_flow_inverse",
      [](std::array<Index, 4> sizes, bool scale, Addresses7 params, Address eps, Address hidden_context,
         Index n_threads, Address z) {
        vlae::kernels().made_flow_inverse(made_shape(sizes, scale), made_params(params), at(eps), at(hidden_context),
                                          n_threads, at<float>(z));
      },
      nogil);

  m.def(
      "weight_norm",
      [](Index R, Index n, Address v, Address g, Address live, Index n_threads, Address w) {
        vlae::kernels().weight_norm(R, n, at(v), at(g), at<const std::int64_t>(live), n_threads, at<float>(w));
      },
      nogil);
  m.def(
      "weight_norm_backward",
      [](Index R, Index n, Address dw, Address v, Address g, Address live, Index n_threads, Address dv, Address dg) {
        vlae::kernels().weight_norm_backward(R, n, at(dw), at(v), at(g), at<const std::int64_t>(live), n_threads,
                                             at<float>(dv), at<float>(dg));
      },
      nogil);
}
