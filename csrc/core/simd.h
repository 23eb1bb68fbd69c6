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

// Registers that a kernel may count on: it decides how many accumulators stay out of memory.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int vector_registers = 32;
#else
constexpr int vector_registers = 16;
#endif

using V = float __attribute__((vector_size(4 * lanes)));
using VUnaligned __attribute__((vector_size(4 * lanes), aligned(4), may_alias)) = float;  // before the =, for Clang
static_assert(alignof(VUnaligned) == 4);
using VInt = std::int32_t __attribute__((vector_size(4 * lanes)));
using VUnsigned = std::uint32_t __attribute__((vector_size(4 * lanes)));

inline V load(const float* p) { return *reinterpret_cast<const VUnaligned*>(p); }
inline void store(float* p, V v) { *reinterpret_cast<VUnaligned*>(p) = v; }
inline V broadcast(float f) { return V{} + f; }

// v where the mask (a comparison's result) is true, else 0.
inline V keep(VInt mask, V v) { return reinterpret_cast<V>(mask & reinterpret_cast<VInt>(v)); }

inline float sum_lanes(V v) {
  float sum = 0.0f;
  for (int k = 0; k < lanes; ++k) sum += v[k];
  return sum;
}

// Mantissa and power of two with exp(x) = mantissa * power, for x <= 0: relative error about 1.5e-7 (4e-7 near the
// floor, -87); the result for x > 0 and for NaN means nothing. x = n ln(2) + r with |r| <= ln(2) / 2; the mantissa
// is a degree-5 minimax polynomial in r, 1 at r = 0.
struct Exp {
  V mantissa, power;
};
inline Exp exp_parts(V x) {
  // As unsigned integers, floats below the floor are larger than it and positive floats smaller: one minimum clamps.
  const VUnsigned bits = reinterpret_cast<VUnsigned>(x), floor = reinterpret_cast<VUnsigned>(broadcast(-87.0f));
  x = reinterpret_cast<V>(bits < floor ? bits : floor);
  constexpr float magic = 12582912.0f + 127.0f;  // 1.5 * 2^23: the sum's low bits are n + 127, a float's exponent
  const V shifted = x * 1.44269504f + magic;
  const V n = shifted - magic;
  const V r = x - n * 0.693147182f;  // one rounded constant is enough: n is small where exp(x) is not
  V p = broadcast(8.29027034e-3f);
  p = p * r + 4.18981612e-2f;
  p = p * r + 1.66676387e-1f;
  p = p * r + 4.99991477e-1f;
  p = p * r + 9.99999702e-1f;
  p = p * r + 1.0f;
  return {p, reinterpret_cast<V>(reinterpret_cast<VInt>(shifted) << 23)};
}

// exp(x) for x <= 0; NaN stays NaN.
inline V exp_negative(V x) {
  const Exp e = exp_parts(x);
  return x == x ? e.mantissa * e.power : x;
}

// Absolute error about 1.5e-7; NaN stays NaN.
inline V elu(V x) {
  const Exp e = exp_parts(x);
  const V negative = e.mantissa * e.power - 1.0f;
  return x <= V{} ? negative : x;
}

inline V sigmoid(V x) {
  const V zero = {};
  const V e = exp_negative(x > zero ? -x : x);
  return (x > zero ? broadcast(1.0f) : e) / (1.0f + e);
}

}  // namespace vlae::VLAE_ISA
