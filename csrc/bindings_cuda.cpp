// Thin, as bindings.cpp: addresses on the device, sizes and a stream in, one call out. Checks are in
// vlae_fast/gpu/made.py.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include "vlae_cuda.h"

namespace nb = nanobind;
using vlae::Index;

namespace {

using Address = std::uintptr_t;

template <class T = const float>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

vlae::cuda::Stream stream_at(Address address) { return reinterpret_cast<vlae::cuda::Stream>(address); }

using Sizes = std::array<Index, 4>;
using Addresses6 = std::array<Address, 6>;
using Addresses7 = std::array<Address, 7>;

vlae::MADEFlow made_shape(const Sizes& n, bool scale) { return {n[0], n[1], n[2], n[3], scale}; }

vlae::MADEFlowParams made_params(const Addresses7& a) {
  return {at(a[0]), at(a[1]), at(a[2]), at(a[3]), at(a[4]), at(a[5]), at<const std::int64_t>(a[6])};
}

vlae::MADEFlowGrads made_grads(const Addresses6& a) {
  const auto p = [&](int i) { return at<float>(a[i]); };
  return {p(0), p(1), p(2), p(3), p(4), p(5)};
}

}  // namespace

NB_MODULE(_cuda, m) {
  const auto nogil = nb::call_guard<nb::gil_scoped_release>();

  m.def("made_flow_forward_scratch",
        [](Sizes sizes, bool scale) { return vlae::cuda::made_flow_forward_scratch(made_shape(sizes, scale)); });
  m.def("made_flow_backward_scratch",
        [](Sizes sizes, bool scale) { return vlae::cuda::made_flow_backward_scratch(made_shape(sizes, scale)); });
  m.def("made_flow_inverse_scratch",
        [](Sizes sizes, bool scale) { return vlae::cuda::made_flow_inverse_scratch(made_shape(sizes, scale)); });

  m.def(
      "made_flow_forward",
      [](Sizes sizes, bool scale, Addresses7 params, Address z, Address hidden_context, Address scratch, Address stream,
         Address eps, Address log_det) {
        vlae::cuda::made_flow_forward(made_shape(sizes, scale), made_params(params), at(z), at(hidden_context),
                                      at<float>(scratch), stream_at(stream), at<float>(eps), at<float>(log_det));
      },
      nogil);
  m.def(
      "made_flow_backward",
      [](Sizes sizes, bool scale, Addresses7 params, Address z, Address hidden_context, Address deps, Address dlog_det,
         Address scratch, Address stream, Address dz, Address dhidden_context, Addresses6 grads) {
        vlae::cuda::made_flow_backward(made_shape(sizes, scale), made_params(params), at(z), at(hidden_context),
                                       at(deps), at(dlog_det), at<float>(scratch), stream_at(stream), at<float>(dz),
                                       at<float>(dhidden_context), made_grads(grads));
      },
      nogil);
  m.def(
      "made_flow_inverse",
      [](Sizes sizes, bool scale, Addresses7 params, Address eps, Address hidden_context, Address scratch,
         Address stream, Address z) {
        vlae::cuda::made_flow_inverse(made_shape(sizes, scale), made_params(params), at(eps), at(hidden_context),
                                      at<float>(scratch), stream_at(stream), at<float>(z));
      },
      nogil);
}
