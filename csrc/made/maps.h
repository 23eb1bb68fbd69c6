// What a MADE of any kind applies to single numbers: activations of hidden units, and how outputs become scales.
#pragma once
#include "core/simd.h"
#include "made/made.h"

namespace vlae::VLAE_ISA::made {

inline V abs(V x) { return x < 0.0f ? -x : x; }

// Of normal numbers > 0; NaN and infinity stay what they are. x = 2^n m with m in [sqrt(1/2), sqrt(2)), and a minimax
// polynomial in m - 1 (Cephes' logf): relative error about 1e-7.
inline V log(V x) {
  const VInt bits = reinterpret_cast<VInt>(x);
  V m = reinterpret_cast<V>((bits & 0x007fffff) | 0x3f000000);
  VInt n = (bits >> 23) - 126;
  const VInt low = m < 0.707106781f;
  n += low;  // a true comparison is -1
  const V f = m - 1.0f + keep(low, m), square = f * f, power = __builtin_convertvector(n, V);
  V p = broadcast(7.0376836292e-2f);
  p = fma(p, f, -1.1514610310e-1f);
  p = fma(p, f, 1.1676998740e-1f);
  p = fma(p, f, -1.2420140846e-1f);
  p = fma(p, f, 1.4249322787e-1f);
  p = fma(p, f, -1.6668057665e-1f);
  p = fma(p, f, 2.0000714765e-1f);
  p = fma(p, f, -2.4999993993e-1f);
  p = fma(p, f, 3.3333331174e-1f);
  p = fma(p * f, square, power * -2.12194440e-4f);  // ln(2) in two parts
  p = fma(-0.5f, square, p);
  const V result = power * 0.693359375f + (f + p);
  return x < __builtin_inff() ? result : x;
}

// log(1 + x) for x >= 0, as exact where x is small: what 1 + x rounds off is put back.
inline V log1p(V x) {
  const V u = 1.0f + x;
  return log(u) + (x - (u - 1.0f)) / u;
}

inline V softplus(V x) { return (x > 0.0f ? x : V{}) + log1p(exp_negative(-abs(x))); }

inline V tanh(V x) {
  const Exp e = exp_parts(-2.0f * abs(x));
  const V less_one = fma(e.mantissa, e.power, -1.0f), size = -less_one / (2.0f + less_one);
  return x == x ? (x < 0.0f ? -size : size) : x;
}

// In the order of ACTIVATIONS of vlae_fast/ops/made/spec.py.
inline V activate(Index kind, V x) {
  switch (kind) {
    case 1:
      return relu(x);
    case 2:
      return tanh(x);
    case 3:
      return elu(x);
    case 4:
      return sigmoid(x);
    case 5:
      return x * sigmoid(x);  // SiLU
    case 6:
      return x < 0.0f ? 0.01f * x : x;  // leaky ReLU
    default:
      return x;
  }
}

// A variable's transform, y = scale * x + shift.
struct Affine {
  V scale, log_scale, shift;
};

// From the outputs of a net, in the order of SCALES of vlae_fast/ops/made/spec.py; first and second as said there.
inline Affine affine(Index kind, float first, float second, V shift, V raw) {
  switch (kind) {
    case 1:
      return {exp(raw), raw, shift};
    case 2: {
      const V scale = softplus(raw) + first;
      return {scale, log(scale), shift};
    }
    case 3: {
      const V scale = sigmoid(raw + first) + second;
      return {scale, log(scale), shift};
    }
    case 4: {
      const V log_scale = raw / (1.0f + abs(raw) / first);
      return {exp(log_scale), log_scale, shift};
    }
    case 5: {
      const V low = raw < first ? broadcast(first) : raw, log_scale = low > second ? broadcast(second) : low;
      return {exp(log_scale), log_scale, shift};
    }
    case 6: {  // shift * (1 - scale)
      const V scale = sigmoid(raw + first);
      return {scale, -softplus(-raw - first), shift * sigmoid(-raw - first)};
    }
    default:
      return {broadcast(1.0f), V{}, shift};
  }
}

}  // namespace vlae::VLAE_ISA::made
