// A ResNet as convolutions with lists of inputs (core/convolution.h), and the memory of a group of images on its way
// through all blocks: what a block reads was written just now.
//
// A convolution of stride 2 sees four images in one: those of even and odd rows and columns, its *phases*. In terms of
// phases every tap is a distance again, so halving is a plain convolution of the input's phases, and doubling (its
// transpose) is one plain convolution for each phase of the output. With `low` the smaller of a block's two sizes,
//   down:  tap (a, b) of output (i, j) reads phase (a != 1, b != 1) at (i - (a == 0), j - (b == 0));
//   up:    tap (a, b) of input (i, j) is read by phase (a != 1, b != 1) at (i - (a == 0), j - (b == 0)).
#pragma once
#include "core/convolution.h"
#include "core/transpose.h"

namespace vlae::VLAE_ISA::resnet {

using namespace convolution;

enum Kind : Index { same, down, up, output };
constexpr Index phases = 4;

inline Index phase_of(Index tap) { return 2 * (tap / 3 != 1) + (tap % 3 != 1); }

// The images of a plane to its four phases, or back; what stands between rows and images is left alone.
inline void split(const Layout& high, const Layout& low, Index images, const float* from, float* to, Index plane) {
  for (Index g = 0; g < images; ++g)
    for (Index i = 0; i < high.H; ++i) {
      const float* const row = from + g * high.image + i * high.stride;
      float* const even = to + i % 2 * 2 * plane + g * low.image + i / 2 * low.stride;
      float* const odd = even + plane;
#pragma GCC ivdep
      for (Index j = 0; j < high.W / 2; ++j) even[j] = row[2 * j], odd[j] = row[2 * j + 1];
      if (high.W % 2) even[high.W / 2] = row[high.W - 1];
    }
}
inline void merge(const Layout& high, const Layout& low, Index images, const float* from, Index plane, float* to) {
  for (Index g = 0; g < images; ++g)
    for (Index i = 0; i < high.H; ++i) {
      float* const row = to + g * high.image + i * high.stride;
      const float* const even = from + i % 2 * 2 * plane + g * low.image + i / 2 * low.stride;
      const float* const odd = even + plane;
#pragma GCC ivdep
      for (Index j = 0; j < high.W / 2; ++j) row[2 * j] = even[j], row[2 * j + 1] = odd[j];
      if (high.W % 2) row[high.W - 1] = even[high.W / 2];
    }
}

// One 3x3 convolution: its weights, how they are stored, and which of its ends is in phases.
struct Conv {
  enum Resampling { none, halving, doubling };
  Resampling resampling;
  Index inputs, outputs;
  const float *weight, *bias;  // null where there is no such convolution
  float scale;

  Index index(Index o, Index c, Index tap) const {
    return 9 * (resampling == doubling ? c * outputs + o : o * inputs + c) + tap;
  }
  Index input_phases() const { return resampling == halving ? phases : 1; }
  Index output_phases() const { return resampling == doubling ? phases : 1; }
  // Calls visit(input channel, tap, offset) for all inputs of output phase p.
  template <class Visit>
  void for_inputs(const Layout& low, Index p, Visit visit) const {
    for (Index c = 0; c < inputs; ++c)
      for (Index tap = 0; tap < 9; ++tap) {
        const Index back = (tap / 3 == 0) * low.stride + (tap % 3 == 0);
        if (resampling == none)
          visit(c, tap, c * low.plane + low.distance(tap));
        else if (resampling == halving)
          visit(c, tap, (phases * c + phase_of(tap)) * low.plane - back);
        else if (phase_of(tap) == p)
          visit(c, tap, c * low.plane + back);
      }
  }
  // The transposed convolution: visit(output channel, tap, offset) for all that input phase p goes to.
  template <class Visit>
  void for_outputs(const Layout& low, Index p, Visit visit) const {
    for (Index o = 0; o < outputs; ++o)
      for (Index tap = 0; tap < 9; ++tap) {
        const Index back = (tap / 3 == 0) * low.stride + (tap % 3 == 0);
        if (resampling == none)
          visit(o, tap, o * low.plane - low.distance(tap));
        else if (resampling == doubling)
          visit(o, tap, (phases * o + phase_of(tap)) * low.plane - back);
        else if (phase_of(tap) == p)
          visit(o, tap, o * low.plane + back);
      }
  }
};

// A block's memory is a row of planes in the layout `low`: its input (in phases where it goes down), that through ELU,
// what stands between its convolutions (through ELU too), and in a backward pass the gradients of its result (in phases
// where it goes up) and of what stands between.
struct Block {
  Kind kind;
  Index C, M, K;  // channels of input, middle (0 in an output block) and result
  Layout in, out, low;
  Conv conv1, conv2, skip;
  // First planes; those of the input begin at 0.
  Index activations = 0, middle = 0, dout = 0, dmiddle = 0;
  Index floats = 0;                          // of all planes
  float *bias1 = nullptr, *bias2 = nullptr;  // [padded(M)], [padded(K)]
  std::int32_t* inside = nullptr;
  Index* pixels = nullptr;  // all that are inside
  Index pixel_count = 0;
  Filter first = {};           // to the middle
  Filter second[phases] = {};  // to the result's phases: what the skip convolution reads, then what conv2 reads
  Filter dmiddle_filter = {};  // the transposed ones, from the gradients
  Filter dskip[phases] = {};   // to the input's phases
  Filter dinput[phases] = {};

  bool has_skip() const { return kind == down || kind == up; }
  bool is_output() const { return kind == output; }
  Index input_phases() const { return kind == down ? phases : 1; }
  Index result_phases() const { return kind == up ? phases : 1; }
  // Of an image in each kept plane.
  Index kept_pixels() const { return low.H * low.stride; }
  // The convolution that the result comes from, and where its inputs begin.
  const Conv& last() const { return is_output() ? conv1 : conv2; }
  Index last_input() const { return is_output() ? activations : middle; }
};

// All blocks, their weights packed, for groups of G images.
class Plan {
 public:
  Plan(const ResNet& net, ResNetParams* params, bool backward);

  const ResNet& net;
  const Index G;
  const Array<Block> block;
  const Block& last() const { return block[net.B - 1]; }
  Index floats = 0;     // of all blocks' planes
  Index kept = 0;       // of what an image keeps for the backward pass
  Index temporary = 0;  // of the largest feature maps between blocks
  Index turned = 0;     // of the largest ones pixel by pixel, in a backward pass

 private:
  void pack(Block& block, bool backward);
  template <class ForInputs>
  Filter make_filter(Index inputs, Index outputs, ForInputs for_inputs);
  float* make_bias(Index channels, const float* a, float scale, const float* b);

  const Array<float> arena_memory_;
  float* arena_;
};

// A group of images on its way through the blocks.
class Group {
 public:
  explicit Group(const Plan&);
  // Images x[count,C,H,W] -> y, if wanted; what stands in the blocks' planes stays for `backward`.
  void forward(const float* x, Index count, float* y) const;
  // What `backward` wants of the planes, to kept[count,plan.kept] and back.
  void save(Index count, float* kept) const;
  void restore(Index count, const float* kept) const;
  // dy -> dx, and sums += what these images add to the weight gradients (see backward.cpp).
  void backward(const float* dy, Index count, float* dx, float* sums) const;

 private:
  float* planes(Index k) const { return memory_ + start_[k] + plan_.block[k].low.margin; }
  // Calls visit(image in a plane, where it is kept, its bytes) for every plane that is.
  template <class Visit>
  void for_kept(Index count, Visit visit) const;
  void add_weights(const Block&, const Conv&, const float* in, const float* grad, float* sums) const;
  void add_bias(const Block&, Index channels, const float* grad, Index apart, float* sums) const;

  const Plan& plan_;
  const Array<Index> start_;
  const Array<float> memory_, maps_, phases_, turned_;
};

}  // namespace vlae::VLAE_ISA::resnet
