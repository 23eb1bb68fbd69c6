// Vectors of float32 in GCC/Clang vector extensions: one source for every instruction set (16, 8 or 4 lanes).
//
// The sources are compiled without contraction: a product is fused with a sum where they say `fma`, and nowhere else.
// Together with sums whose order does not depend on the number of lanes (`Wide`) this makes results the same, bit for
// bit, on all processors that have fused multiply-add. The baseline of x86 rounds twice, and so does everything that is
// compiled with VLAE_PLAIN: the same bits on all processors.
#pragma once
#include "vlae.h"

#if !defined(VLAE_PLAIN) && defined(__FMA__)
#define VLAE_FUSED
#include <immintrin.h>
#elif !defined(VLAE_PLAIN) && defined(__aarch64__)
#define VLAE_FUSED
#include <arm_neon.h>
#endif

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
inline V broadcast(float f) { return f - V{}; }  // a sum would make 0 of -0, and cost an addition

// a * b + c
inline V fma(V a, V b, V c) {
#if !defined(VLAE_FUSED)
  return a * b + c;
#elif defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return vfmaq_f32(c, a, b);
#endif
}
inline V fma(float a, V b, V c) { return fma(broadcast(a), b, c); }
inline V fma(V a, float b, float c) { return fma(a, broadcast(b), broadcast(c)); }
inline V fma(V a, V b, float c) { return fma(a, b, broadcast(c)); }
// *a * b + c, for the innermost loops: on Zen 4 the broadcast of a number that is used twice takes the place of a sum,
// and rounding twice is a third slower (39 instead of 59 billion products a second).
inline V fma(const float* a, V b, V c) {
#if defined(__AVX512F__) && !defined(VLAE_FUSED)
  V product;
  asm("vmulps %2%{1to16%}, %1, %0" : "=v"(product) : "v"(b), "m"(*a));
  return product + c;
#else
  return fma(*a, b, c);
#endif
}

// v where the mask (a comparison's result) is true, else 0.
inline V keep(VInt mask, V v) { return reinterpret_cast<V>(mask & reinterpret_cast<VInt>(v)); }

// 16 floats, whatever the lanes: sums that run over vectors are kept in these, and folded in one order.
struct Wide {
  V part[16 / lanes];
};
inline Wide load_wide(const float* p) {
  Wide w;
  for (int k = 0; k < 16 / lanes; ++k) w.part[k] = load(p + k * lanes);
  return w;
}
inline Wide fma(Wide a, Wide b, Wide c) {
  for (int k = 0; k < 16 / lanes; ++k) c.part[k] = fma(a.part[k], b.part[k], c.part[k]);
  return c;
}
inline Wide operator+(Wide a, Wide b) {
  for (int k = 0; k < 16 / lanes; ++k) a.part[k] += b.part[k];
  return a;
}
// Entries 8 apart first, then 4, 2 and 1.
inline float sum(Wide w) {
  using V4 = float __attribute__((vector_size(16)));
  V4 part[4];
  __builtin_memcpy(part, &w, sizeof w);
  const V4 four = (part[0] + part[2]) + (part[1] + part[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// exp(r) for |r| <= ln(2) / 2: a degree-5 minimax polynomial, 1 at r = 0.
inline V exp_mantissa(V r) {
  V p = broadcast(8.29027034e-3f);
  p = fma(p, r, 4.18981612e-2f);
  p = fma(p, r, 1.66676387e-1f);
  p = fma(p, r, 4.99991477e-1f);
  p = fma(p, r, 9.99999702e-1f);
  p = fma(p, r, 1.0f);
  return p;
}

// Mantissa and power of two with exp(x) = mantissa * power, for x <= 0: relative error about 1.5e-7 (4e-7 near the
// floor, -87); the result for x > 0 and for NaN means nothing. x = n ln(2) + r with |r| <= ln(2) / 2; the mantissa
// is exp(r).
struct Exp {
  V mantissa, power;
};
inline Exp exp_parts(V x) {
  // As unsigned integers, floats below the floor are larger than it and positive floats smaller: one minimum clamps.
  const VUnsigned bits = reinterpret_cast<VUnsigned>(x), floor = reinterpret_cast<VUnsigned>(broadcast(-87.0f));
  x = reinterpret_cast<V>(bits < floor ? bits : floor);
  constexpr float magic = 12582912.0f + 127.0f;  // 1.5 * 2^23: the sum's low bits are n + 127, a float's exponent
  const V shifted = fma(x, 1.44269504f, magic);
  const V n = shifted - magic;
  const V r = fma(-0.693147182f, n, x);  // one rounded constant is enough: n is small where exp(x) is not
  return {exp_mantissa(r), reinterpret_cast<V>(reinterpret_cast<VInt>(shifted) << 23)};
}

// exp(x) for x <= 0; NaN stays NaN.
inline V exp_negative(V x) {
  const Exp e = exp_parts(x);
  return x == x ? e.mantissa * e.power : x;
}

// exp(x); NaN stays NaN.
inline V exp(V x) {
  const V half = exp_negative(-0.5f * (x < 0.0f ? -x : x));
  const V root = x < 0.0f ? half : 1.0f / half;
  return root * root;
}

// Absolute error about 1.5e-7; NaN stays NaN.
inline V elu(V x) {
  const Exp e = exp_parts(x);
  const V negative = fma(e.mantissa, e.power, -1.0f);
  return x <= V{} ? negative : x;
}

inline V sigmoid(V x) {
  const V zero = {};
  const V e = exp_negative(x > zero ? -x : x);
  return (x > zero ? broadcast(1.0f) : e) / (1.0f + e);
}

// log(1 + exp(x)).
inline V softplus(V x) {
  const V u = exp_negative(x > V{} ? -x : x);
  // log(1 + u) = 2 atanh(u / (2 + u)): a series in at most 1/9, cut where its terms are 2e-8.
  const V r = u / (u + 2.0f), square = r * r;
  V series = broadcast(2.0f / 15);
  for (int k = 13; k > 0; k -= 2) series = fma(series, square, 2.0f / k);
  return fma(r, series, x > V{} ? x : V{});
}

// Calls body(get, put) for all vectors of n entries, the last of which may be short: get(p) is the vector of p, put(p,
// v) writes it there.
template <class Body>
inline void for_vectors(Index n, Body body) {
  Index i = 0;
  for (; i + lanes <= n; i += lanes)
    body([i](const float* p) { return load(p + i); }, [i](float* p, V v) { store(p + i, v); });
  if (i == n) return;
  body(
      [i, n](const float* p) {
        V v = {};
        for (Index k = i; k < n; ++k) v[k - i] = p[k];
        return v;
      },
      [i, n](float* p, V v) {
        for (Index k = i; k < n; ++k) p[k] = v[k - i];
      });
}

}  // namespace vlae::VLAE_ISA
