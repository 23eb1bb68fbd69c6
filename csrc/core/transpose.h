// Shuffles of vectors, and rows turned into columns.
#pragma once
#include "core/simd.h"

namespace vlae::VLAE_ISA {

// Vectors shuffled lane by lane: lane i of the result is lane pick(i) of the 2 * lanes lanes of a and b.
template <int... I>
struct Lanes {};
template <int n, int... I>
constexpr auto first_lanes() {
  if constexpr (n == 0)
    return Lanes<I...>{};
  else
    return first_lanes<n - 1, n - 1, I...>();
}
template <auto pick, int... I>
V shuffle(V a, V b, Lanes<I...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, pick(I)...);
#else  // GCC 11
  return __builtin_shuffle(a, b, VInt{pick(I)...});
#endif
}
template <auto pick>
V shuffle(V a, V b) {
  return shuffle<pick>(a, b, first_lanes<lanes>());
}

using Quad = float __attribute__((vector_size(16)));
using Pair = float __attribute__((vector_size(32)));
using QuadUnaligned __attribute__((vector_size(16), aligned(4), may_alias)) = float;
static_assert(alignof(QuadUnaligned) == 4);

inline Quad load_quad(const float* p) { return *reinterpret_cast<const QuadUnaligned*>(p); }

// p[0..count), then zeros; count < 4
inline Quad load_some(const float* p, Index count) {
  Quad quad = {};
  for (Index i = 0; i < count; ++i) quad[i] = p[i];
  return quad;
}

// The lanes of a, then those of b.
template <class Wide, class Half, int... I>
inline Wide join(Half a, Half b, Lanes<I...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, I...);
#else  // GCC 11
  constexpr int half = sizeof...(I) / 2;
  return Wide{(I < half ? a[I % half] : b[I % half])...};
#endif
}

// Four columns of `lanes` rows, transposed: quads of rows side by side, then 4x4 transposes within them. quad(r) is the
// quad of row r.
template <class LoadQuad>
inline void transpose(LoadQuad quad, V (&columns)[4]) {
  V v[4];
  for (int i = 0; i < 4; ++i) {
    if constexpr (lanes == 4) {
      v[i] = quad(i);
    } else {
      const auto pair = [&](int r) { return join<Pair>(quad(r), quad(r + 4), first_lanes<8>()); };
      if constexpr (lanes == 8)
        v[i] = pair(i);
      else
        v[i] = join<V>(pair(i), pair(i + 8), first_lanes<16>());
    }
  }
  constexpr auto zip = [](int i) { return i / 4 * 4 + i % 4 / 2 + i % 2 * lanes; };
  constexpr auto knit = [](int i) { return i / 4 * 4 + i % 2 + i % 4 / 2 * lanes; };
  constexpr auto zip_high = [](int i) { return i / 4 * 4 + i % 4 / 2 + i % 2 * lanes + 2; };
  constexpr auto knit_high = [](int i) { return i / 4 * 4 + i % 2 + i % 4 / 2 * lanes + 2; };
  const V low01 = shuffle<zip>(v[0], v[1]), high01 = shuffle<zip_high>(v[0], v[1]);
  const V low23 = shuffle<zip>(v[2], v[3]), high23 = shuffle<zip_high>(v[2], v[3]);
  columns[0] = shuffle<knit>(low01, low23);
  columns[1] = shuffle<knit_high>(low01, low23);
  columns[2] = shuffle<knit>(high01, high23);
  columns[3] = shuffle<knit_high>(high01, high23);
}

}  // namespace vlae::VLAE_ISA
