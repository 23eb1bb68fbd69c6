// What Python sends for an argument of each type of the surface, and how that is read: numbers as they are, pointers as
// integers, structs as tuples. Shapes, types and values are checked in Python (vlae_fast/ops).
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/tuple.h>

#include <bit>

#include "vlae.h"

namespace vlae::bindings {

using Address = std::uintptr_t;

template <class T>
struct Argument {
  using Sent = T;
  static T read(T sent) { return sent; }
};
template <class T>
struct Argument<T*> {
  using Sent = Address;
  static T* read(Address sent) { return reinterpret_cast<T*>(sent); }
};

// A struct of pointers.
template <class T>
struct Pointers {
  using Sent = std::array<Address, sizeof(T) / sizeof(Address)>;
  static T read(const Sent& sent) { return std::bit_cast<T>(sent); }
};
template <>
struct Argument<const PixelCNNParams&> : Pointers<PixelCNNParams> {};
template <>
struct Argument<const PixelCNNGrads&> : Pointers<PixelCNNGrads> {};
template <>
struct Argument<const MADEFlowParams&> : Pointers<MADEFlowParams> {};
template <>
struct Argument<const MADEFlowGrads&> : Pointers<MADEFlowGrads> {};

// A struct of these fields, in order.
template <class T, class... Fields>
struct Sizes {
  using Sent = std::tuple<typename Argument<Fields>::Sent...>;
  static T read(const Sent& sent) {
    return std::apply([](auto... fields) { return T{Argument<Fields>::read(fields)...}; }, sent);
  }
};
template <>
struct Argument<const Conv3x3&> : Sizes<Conv3x3, Index, Index, Index, Index, Index, Index, bool, float> {};
template <>
struct Argument<const PixelCNN&>
    : Sizes<PixelCNN, Index, Index, Index, Index, Index, Index, Index, Index, const Wire*, float, Index> {};
template <>
struct Argument<const Coders&> : Sizes<Coders, std::uint64_t*, Index*, std::uint32_t*, Index> {};
template <>
struct Argument<const ResNet&> : Sizes<ResNet, Index, Index, Index, Index, const ResNetBlock*, float> {};
template <>
struct Argument<const Dense&> : Sizes<Dense, Index, Index, Index, bool> {};
template <>
struct Argument<const AdamaxStep&> : Sizes<AdamaxStep, float, float, float, float, float> {};
template <>
struct Argument<const MADEFlow&> : Sizes<MADEFlow, Index, Index, Index, Index, bool> {};
template <>
struct Argument<const MADE&>
    : Sizes<MADE, Index, Index, Index, const MADEStep*, const MADELayer*, const std::int64_t*, bool> {};

// Adds a function that takes what Python sends for A... and calls call(A...) without Python's lock.
template <class... A, class Call>
void define(nanobind::module_& m, const char* name, Call call) {
  m.def(
      name, [call](const typename Argument<A>::Sent&... sent) { return call(Argument<A>::read(sent)...); },
      nanobind::call_guard<nanobind::gil_scoped_release>());
}

}  // namespace vlae::bindings
