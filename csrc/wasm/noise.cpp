// The noise of vlae_fast/noise.py, the same bits: Philox 4x64-10 (Salmon et al. 2011), and the inverse of the normal
// distribution function (Wichura 1988, algorithm AS 241) with the logarithm of vlae_fast/portable.py, in float64.
#include "wasm/page.h"

namespace vlae::VLAE_ISA {

namespace {

template <int n>
double polynomial(double x, const double (&coefficients)[n]) {  // the highest power first
  double value = coefficients[0];
  for (int i = 1; i < n; ++i) value = value * x + coefficients[i];
  return value;
}

// Of positive numbers that are not subnormal.
double log(double x) {
  std::uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof x);
  Index exponent = static_cast<Index>(bits >> 52) - 1022;
  bits = (bits & 0x000FFFFFFFFFFFFF) | 0x3FE0000000000000;
  double mantissa;
  __builtin_memcpy(&mantissa, &bits, sizeof x);
  if (mantissa < 0.7071067811865476) mantissa *= 2, --exponent;
  const auto e = static_cast<double>(exponent);
  const double s = (mantissa - 1) / (mantissa + 1), square = s * s;
  double series = 2.0 / 25;
  for (int k = 23; k > 0; k -= 2) series = series * square + 2.0 / k;
  return e * 6.93147180369123816490e-01 + (s * series + e * 1.90821492927058770002e-10);
}

constexpr double central[2][8] = {
    {2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
     1971.5909503065514427, 133.14166789178437745, 3.387132872796366608},
    {5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
     687.1870074920579083, 42.313330701600911252, 1.0}};
constexpr double middle[2][8] = {
    {7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734},
    {1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0}};
constexpr double far[2][8] = {
    {2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772},
    {2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0}};

double ratio(double x, const double (&parts)[2][8]) { return polynomial(x, parts[0]) / polynomial(x, parts[1]); }

double inverse_normal(double p) {
  const double q = p - 0.5;
  if (__builtin_fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * polynomial(r, central[0]) / polynomial(r, central[1]);
  }
  const double r = __builtin_sqrt(-log(p < 1 - p ? p : 1 - p));
  return __builtin_copysign(r <= 5 ? ratio(r - 1.6, middle) : ratio(r - 5, far), q);
}

// The upper half of a product of 128 bits. The empty asm keeps the compiler from seeing that, as it would call a
// function of a library that is not here.
std::uint64_t upper(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t low = a & 0xFFFFFFFF, high = a >> 32, blow = b & 0xFFFFFFFF, bhigh = b >> 32;
  std::uint64_t first = high * blow + (low * blow >> 32);
  asm("" : "+r"(first));
  const std::uint64_t second = low * bhigh + (first & 0xFFFFFFFF);
  return high * bhigh + (first >> 32) + (second >> 32);
}

// Four random words of a counter (count, item) and a key (seed, stream).
void philox(std::uint64_t count, std::uint64_t item, std::uint64_t seed, std::uint64_t stream, std::uint64_t* words) {
  std::uint64_t c[4] = {count, item, 0, 0};
  for (int round = 0; round < 10; ++round) {
    constexpr std::uint64_t a = 0xD2E7470EE14C6C93, b = 0xCA5A826395121157;
    const std::uint64_t next[4] = {upper(b, c[2]) ^ c[1] ^ seed, b * c[2], upper(a, c[0]) ^ c[3] ^ stream, a * c[0]};
    __builtin_memcpy(c, next, sizeof c);
    seed += 0x9E3779B97F4A7C15;
    stream += 0xBB67AE8584CAA73B;
  }
  __builtin_memcpy(words, c, sizeof c);
}

}  // namespace

void noise(std::uint64_t seed, std::uint64_t stream, std::uint64_t item, Index start, Index normals, Index uniforms,
           float* normal, float* uniform) {
  std::uint64_t words[4];
  for (Index k = 0; k < normals + uniforms; ++k) {
    const Index at = start + k;
    if (k == 0 || at % 4 == 0) philox(static_cast<std::uint64_t>(at / 4 + 1), item, seed, stream, words);
    const std::uint64_t word = words[at % 4];
    if (k < normals)
      normal[k] = static_cast<float>(inverse_normal((static_cast<double>(word >> 11) + 0.5) * 0x1p-53));
    else
      uniform[k - normals] = static_cast<float>(word >> 40) * 0x1p-24f;
  }
}

}  // namespace vlae::VLAE_ISA
