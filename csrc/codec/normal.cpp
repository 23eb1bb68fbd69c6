// Codes under binned normal distributions. Compiled once: the same integers on every processor.
#include <algorithm>
#include <array>
#include <cmath>

#include "codec/ans.h"

namespace vlae {

namespace {

constexpr int bits = 24;        // of a symbol's frequency
constexpr int cdf_bits = 36;    // of the distribution function
constexpr int knots = 64;       // of it, for each unit
constexpr Index farthest = 8;   // where it is 0 and 1
constexpr int place_bits = 14;  // of a place between two knots

// The standard normal distribution function at -8, -8 + 1/64, ..., 8 in units of 2^-36.
using Table = std::array<std::int64_t, 2 * farthest * knots + 1>;

// 1/2 + density(t) (t + t^3/3 + t^5/(3 5) + ...) (Marsaglia 2004). Sums and products of float64 alone.
Table make_table() {
  constexpr double unit = std::int64_t{1} << cdf_bits, step = 1.0 / knots;
  constexpr double shrink = 0.9998779371377774;  // exp(-step^2 / 2)
  Table table;
  constexpr std::int64_t middle = std::int64_t{1} << (cdf_bits - 1);
  double density = 0.3989422804014327, factor = shrink;
  std::int64_t half = 0;  // never falls, lest a bin be empty
  for (Index i = 0; i <= farthest * knots; ++i) {
    const double t = static_cast<double>(i) * step;
    double sum = t, term = t;
    for (int k = 3; term > 1e-20 * sum; k += 2) sum += term *= t * t / k;
    half = std::max(half, static_cast<std::int64_t>(std::min(density * sum, 0.5) * unit + 0.5));
    table[farthest * knots + i] = middle + half;
    table[farthest * knots - i] = middle - half;
    density *= factor;
    factor *= shrink * shrink;
  }
  return table;
}

// A normal distribution in bins around k grid, k an integer: those within 8 standard deviations, each of at least one
// slot. What lies farther out is counted to the first and the last bin.
class Bins {
 public:
  Bins(double mean, double std, double grid) : mean_(mean / grid) {
    const double deviation = std::min(std::max(std / grid, narrowest), widest);  // in bins
    scale_ = knots / deviation;
    half_ = static_cast<Index>(std::ceil(farthest * deviation));
    center_ = static_cast<Index>(std::nearbyint(std::min(std::max(mean_, -nearest), nearest)));
  }

  Index first() const { return center_ - half_; }
  Index last() const { return center_ + half_; }

  // The bin of k, or the nearest.
  Index inside(double k) const {
    return static_cast<Index>(std::min(std::max(k, static_cast<double>(first())), static_cast<double>(last())));
  }

  // Slots below bin k, first() <= k <= last() + 1.
  std::uint32_t below(Index k) const {
    static const Table table = make_table();
    const Index bins = 2 * half_ + 1, rank = k - first();
    if (rank == 0) return 0;
    if (rank == bins) return std::uint32_t{1} << bits;
    const double place = ((static_cast<double>(k) - 0.5) - mean_) * scale_ + farthest * knots;  // in knots
    const double clamped = std::min(std::max(place, 0.0), static_cast<double>(2 * farthest * knots) - 0.5);
    const auto fixed = static_cast<std::int64_t>(clamped * (1 << place_bits));
    const std::int64_t* knot = table.data() + (fixed >> place_bits);
    const std::int64_t between = fixed & ((1 << place_bits) - 1);
    const std::int64_t cdf = knot[0] + ((knot[1] - knot[0]) * between >> place_bits);
    return static_cast<std::uint32_t>(rank + (cdf * ((Index{1} << bits) - bins) >> cdf_bits));
  }

  // The bin that a slot lies in.
  Index at(std::uint32_t slot) const {
    Index low = first(), high = last() + 1;  // below(low) <= slot < below(high)
    while (high - low > 1) {
      const Index middle = low + (high - low) / 2;
      (below(middle) <= slot ? low : high) = middle;
    }
    return low;
  }

 private:
  static constexpr double narrowest = 1.0 / 64, widest = 1 << 17, nearest = 1 << 22;
  double mean_, scale_;  // in bins; knots a bin
  Index half_, center_;
};

}  // namespace

void normal_code(Index N, Index D, float grid, const float* mean, const float* std, const Coders& coders, bool pop,
                 float* z) {
  for (Index n = 0; n < N; ++n) {
    Coder coder(coders, n);
    for (Index j = 0; j < D; ++j) {
      const Index i = n * D + (pop ? j : D - 1 - j);
      const Bins bins(mean ? mean[i] : 0.0, std ? std[i] : 1.0, grid);
      Index k;
      if (pop)
        k = bins.at(coder.slot(bits));
      else
        k = bins.inside(static_cast<double>(z[i]) / grid);
      const std::uint32_t start = bins.below(k), frequency = bins.below(k + 1) - start;
      if (pop) {
        coder.pop(bits, start, frequency);
        z[i] = static_cast<float>(k) * grid;
      } else {
        coder.push(bits, start, frequency);
      }
    }
  }
}

}  // namespace vlae
