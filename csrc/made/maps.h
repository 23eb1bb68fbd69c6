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

// exp(x) without a division: 2^n in two parts, of which neither overflows where |x| < 87.
inline V exp_product(V x) {
  x = x < -170.0f ? broadcast(-170.0f) : x;
  x = x > 170.0f ? broadcast(170.0f) : x;
  constexpr float magic = 12582912.0f;  // 1.5 * 2^23: the sum's low bits are n
  const V shifted = fma(x, 1.44269504f, magic);
  const V n = shifted - magic;
  const V r = fma(-1.42860677e-6f, n, fma(-0.693145752f, n, x));  // ln(2) in two parts
  const VInt whole = __builtin_convertvector(n, VInt), half = whole >> 1;
  const auto power = [](VInt k) { return reinterpret_cast<V>((k + 127) << 23); };
  return exp_mantissa(r) * power(half) * power(whole - half);
}

// log(1 + exp(x)), nearly rounded where |x| is small: log(1 + u) = 2 atanh(r) with r = u / (2 + u), whose own rounding
// is put back; 1 / (2 + u) is (1 - r) / 2.
inline V softplus(V x) {
  const V u = exp_negative(-abs(x)), sum = u + 2.0f;
  const V r = u / sum, square = r * r;
  V series = broadcast(2.0f / 15);  // in at most 1/9, cut where its terms are 2e-8
  for (int k = 13; k > 1; k -= 2) series = fma(series, square, 2.0f / k);
  const V lost = fma(-r, sum, u) - r * (u - (sum - 2.0f));
  const V rest = fma(series * square, r, lost * (1.0f - r));
  return (x > 0.0f ? x : V{}) + fma(2.0f, r, rest);
}

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

// Its derivative.
inline V activation_slope(Index kind, V x) {
  const V one = broadcast(1.0f);
  switch (kind) {
    case 1:
      return x > 0.0f ? one : V{};
    case 2: {
      const V t = tanh(x);
      return fma(-t, t, one);
    }
    case 3:
      return x > 0.0f ? one : exp_negative(x);
    case 4:
      return sigmoid(x) * sigmoid(-x);
    case 5:
      return sigmoid(x) * fma(x, sigmoid(-x), one);
    case 6:
      return x > 0.0f ? one : broadcast(0.01f);
    default:
      return one;
  }
}

// A variable's transform, y = scale * x + shift.
struct Affine {
  V scale, shift;
};

// log of a product of scales. Factors that are known by their logs are summed, with what the sum rounds off carried
// along (Kahan): many that are nearly equal err in one direction. Others are multiplied, and the product's powers of
// two counted apart.
class LogProduct {
 public:
  void add_log(V x) {
    const V next = x - lost_, sum = total_ + next;
    lost_ = (sum - total_) - next;
    total_ = sum;
  }
  void multiply(V x) {
    product_ *= x;
    const VInt finite = product_ < __builtin_inff(), bits = reinterpret_cast<VInt>(product_);
    powers_ += ((bits >> 23) - 127) & finite;
    product_ = finite ? reinterpret_cast<V>((bits & 0x007fffff) | 0x3f800000) : product_;
  }
  V value() const { return total_ + fma(0.693147182f, __builtin_convertvector(powers_, V), log(product_)); }

 private:
  V total_ = {}, lost_ = {}, product_ = broadcast(1.0f);
  VInt powers_ = {};
};

// From the outputs of a net, in the order of SCALES of vlae_fast/ops/made/spec.py; first and second as said there.
inline Affine affine(Index kind, float first, float second, V shift, V raw, LogProduct& scales) {
  const auto of_log = [&](V log_scale) {
    scales.add_log(log_scale);
    return Affine{exp_product(log_scale), shift};
  };
  const auto of_scale = [&](V scale) {
    scales.multiply(scale);
    return Affine{scale, shift};
  };
  switch (kind) {
    case 1:
      return of_log(raw);
    case 2:
      return of_scale(softplus(raw) + first);
    case 3:
      return of_scale(sigmoid(raw + first) + second);
    case 4:
      return of_log(raw / (1.0f + abs(raw) * (1.0f / first)));
    case 5: {
      const V low = raw < first ? broadcast(first) : raw;
      return of_log(low > second ? broadcast(second) : low);
    }
    case 6:  // shift * (1 - scale)
      scales.add_log(-softplus(-raw - first));
      return {sigmoid(raw + first), shift * sigmoid(-raw - first)};
    default:
      return {broadcast(1.0f), shift};
  }
}

// The derivative of a log scale in raw; a clamped one's is that of what it clamps (as pyro has it).
inline V log_scale_slope(Index kind, float first, float second, V raw) {
  switch (kind) {
    case 2:
      return sigmoid(raw) / (softplus(raw) + first);
    case 3: {
      const V scale = sigmoid(raw + first);
      return scale * sigmoid(-raw - first) / (scale + second);
    }
    case 4: {
      const V root = 1.0f / (1.0f + abs(raw) * (1.0f / first));
      return root * root;
    }
    case 6:
      return sigmoid(-raw - first);
    default:
      return broadcast(1.0f);
  }
}

}  // namespace vlae::VLAE_ISA::made
