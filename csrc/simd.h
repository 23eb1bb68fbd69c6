// Vectors of float32 in GCC/Clang vector extensions: one source for every instruction set (16, 8 or 4 lanes).
#pragma once
#include "vlae.h"

namespace vlae::VLAE_ISA {

#if defined(__AVX512F__)
constexpr int lanes = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8;
#else
constexpr int lanes = 4;
#endif

using V = float __attribute__((vector_size(4 * lanes)));
using VUnaligned = float __attribute__((vector_size(4 * lanes), aligned(4), may_alias));
using VInt = std::int32_t __attribute__((vector_size(4 * lanes)));

inline V load(const float* p) { return *reinterpret_cast<const VUnaligned*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<VUnaligned*>(p) = v; }
inline V broadcast(float f) { return V{} + f; }

// exp(x) for x <= 0, relative error about 1e-7: 2^n * e^r with |r| <= ln(2) / 2, degree-6 minimax polynomial.
inline V exp_negative(V x) {
  const V floor = broadcast(-87.0f);
  x = x > floor ? x : floor;
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const V shifted = x * 1.44269504f + magic;
  const V n = shifted - magic;
  const V r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  V p = broadcast(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const VInt power = (reinterpret_cast<VInt>(shifted) + (127 - 0x4B400000)) << 23;
  return p * reinterpret_cast<V>(power);
}

inline V elu(V x) {
  const V zero = {};
  const V negative = exp_negative(x < zero ? x : zero) - 1.0f;
  return x > zero ? x : negative;
}

}  // namespace vlae::VLAE_ISA
