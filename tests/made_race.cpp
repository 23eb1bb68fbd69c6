// Runs the MADE flow's CUDA functions once on random numbers, for ThreadSanitizer (tests/ops/test_made_cuda.py).
// made_race N D M T SCALE SPREAD: hidden unit h has degree h * D / M, but those below SPREAD have degree 0.
#include <cstdlib>
#include <random>
#include <vector>

#include "vlae_cuda.h"

int main(int, char** arguments) {
  const auto number = [&](int i) { return static_cast<vlae::Index>(std::atoll(arguments[i])); };
  const vlae::MADEFlow s = {number(1), number(2), number(3), number(4), number(5) != 0};
  const vlae::Index R = s.scale ? 2 * s.D : s.D;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0f, 0.3f);
  const auto drawn = [&](vlae::Index count) {
    std::vector<float> values(count);
    for (float& x : values) x = normal(random);
    return values;
  };
  std::vector<std::int64_t> degrees(s.M);
  for (vlae::Index h = 0; h < s.M; ++h) degrees[h] = h < number(6) ? 0 : h * s.D / s.M;
  const auto weight1 = drawn(s.T * s.M * s.D), bias1 = drawn(s.T * s.M), weight2 = drawn(s.T * s.M * s.M),
             bias2 = drawn(s.T * s.M), weight3 = drawn(s.T * R * s.M), bias3 = drawn(s.T * R), z = drawn(s.N * s.D),
             context = drawn(s.N * s.T * s.M);
  const vlae::MADEFlowParams params = {weight1.data(), bias1.data(), weight2.data(), bias2.data(),
                                       weight3.data(), bias3.data(), degrees.data()};
  auto eps = z, drawn_z = z, log_det = drawn(s.N), scratch = drawn(0);

  scratch.resize(vlae::cuda::made_flow_forward_scratch(s));
  vlae::cuda::made_flow_forward(s, params, z.data(), context.data(), scratch.data(), nullptr, eps.data(),
                                log_det.data());
  scratch.resize(vlae::cuda::made_flow_inverse_scratch(s));
  vlae::cuda::made_flow_inverse(s, params, eps.data(), context.data(), scratch.data(), nullptr, drawn_z.data());

  auto dz = z, dcontext = context, d1 = weight1, d2 = bias1, d3 = weight2, d4 = bias2, d5 = weight3, d6 = bias3;
  scratch.resize(vlae::cuda::made_flow_backward_scratch(s));
  vlae::cuda::made_flow_backward(s, params, z.data(), context.data(), eps.data(), log_det.data(), scratch.data(),
                                 nullptr, dz.data(), dcontext.data(),
                                 {d1.data(), d2.data(), d3.data(), d4.data(), d5.data(), d6.data()});
}
