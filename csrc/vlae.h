// The whole CPU surface on one page. Row-major float32 unless said otherwise; the caller allocates every output and
// every element of it is written; outputs alias nothing; sizes may be 0; nothing here knows of torch or Python.
//
// Letters: N batch, C/K channels in/out (K context channels of a PixelCNN), H/W rows/columns, L mask-B layers,
// P 1x1 blocks, S stored hidden weights (1 or L), D latent size, M hidden units, T flow steps, R rows of n entries.
// The result of every function is the same, bit for bit, for any n_threads and any split of the batch.
#pragma once
#if defined(__clang__) ? __clang_major__ < 14 : __GNUC__ < 11
#error "vlae_fast: GCC 11 or Clang 14, or a later one, wanted"
#endif
#include <cstdint>

namespace vlae {

using Index = std::int64_t;

struct Conv3x3 {
  Index N, C, K, H, W;
  Index taps;  // causal taps in raster order: 4 (mask A) or 5 (mask B)
  bool pre_elu;
  float residual_scale;
};
// y[N,K,H,W] = residual + residual_scale * (gain[K] * conv(mask * weight[K,C,3,3], elu?(x[N,C,H,W])) + bias[K]),
// zero padding. gain and residual may be null.
using MaskedConv3x3 = void(const Conv3x3&, const float* x, const float* weight, const float* bias, const float* gain,
                           const float* residual, Index n_threads, float* y);
// dresidual is dy itself. dgain is untouched if gain is null. Forbidden taps of dweight are 0.
using MaskedConv3x3Backward = void(const Conv3x3&, const float* dy, const float* x, const float* weight,
                                   const float* gain, Index n_threads, float* dx, float* dweight, float* dbias,
                                   float* dgain);

// A convolution behind the first, in the order in which a pixel runs through them.
struct Wire {
  std::int32_t taps;    // 5: a mask-B layer; 1: a 1x1 convolution
  std::int32_t index;   // of the layer; of the 1x1 convolution, two a block
  std::int32_t closes;  // whether it is the last of its residual block; the next one then opens another
};
// Sizes and wiring of a PixelCNN.
struct PixelCNN {
  Index N, H, W, C, K, L, P, S;
  const Wire* wiring;  // [L + 2 P], each layer and each 1x1 convolution once
  float residual_scale;
  Index visible_stride;  // pixels whose row or column is no multiple of it are fed to the network as 0

  // Never a function of its own: instruction sets would share it.
  [[gnu::always_inline]] Index stages() const { return L + 2 * P; }
};
struct PixelCNNParams {
  const float* image_weight;      // [C,1,3,3] mask A
  const float* context_weight;    // [C,K,3,3] no mask
  const float* input_bias;        // [C]
  const float* hidden_weight;     // [S,C,C,3,3] mask B
  const float* hidden_gain;       // [L,C]
  const float* hidden_bias;       // [L,C]
  const float* pointwise_weight;  // [P,2,C,C] block, first/second, out, in
  const float* pointwise_bias;    // [P,2,C]
  const float* output_weight;     // [C]
  const float* output_bias;       // [1]
};
struct PixelCNNGrads {  // as PixelCNNParams
  float *image_weight, *context_weight, *input_bias, *hidden_weight, *hidden_gain, *hidden_bias, *pointwise_weight,
      *pointwise_bias, *output_weight, *output_bias;
};
// x[N,1,H,W], context[N,K,H,W] -> logits[N,1,H,W]
using PixelCNNLogits = void(const PixelCNN&, const PixelCNNParams&, const float* x, const float* context,
                            Index n_threads, float* logits);
// x binary -> log_prob[N] = sum over pixels of x * logit - softplus(logit)
using PixelCNNLogProb = void(const PixelCNN&, const PixelCNNParams&, const float* x, const float* context,
                             Index n_threads, float* log_prob);
// Gradients of sum(dlogits * logits), or of sum(dlog_prob * log_prob): exactly one of dlogits[N,1,H,W] and
// dlog_prob[N] is not null. Activations are computed anew.
using PixelCNNBackward = void(const PixelCNN&, const PixelCNNParams&, const float* x, const float* context,
                              const float* dlogits, const float* dlog_prob, Index n_threads, float* dx, float* dcontext,
                              const PixelCNNGrads&);
// x[N,1,H,W]: 1 where uniforms[N,H,W] < sigmoid(logit / temperature), else 0, in raster order; where given[N,H,W] is
// 0 or 1 (not -1) that value is kept. given may be null. A pixel that is drawn where the logit is NaN is NaN.
using PixelCNNSample = void(const PixelCNN&, const PixelCNNParams&, const float* context, const float* uniforms,
                            const std::int8_t* given, float temperature, Index n_threads, float* x);

// N entropy coders, one an image: asymmetric numeral systems (Duda 2013) with a stack of 32-bit words each. The caller
// sees to it that a stack has room for what is pushed: a word a pixel, a word a code dimension.
struct Coders {
  std::uint64_t* state;  // [N] at least 2^32 where its stack is not empty
  Index* words;          // [N] on the stack
  std::uint32_t* stack;  // [N,room]
  Index room;
};
// x[N,1,H,W] is pushed pixel by pixel under the model's probabilities, or popped. Both run the sampler, as the order of
// its sums, not that of pixelcnn_logits, is what has to be the same.
using PixelCNNCode = void(const PixelCNN&, const PixelCNNParams&, const float* context, const Coders&, bool pop,
                          Index n_threads, float* x);

// A residual block of 3x3 convolutions, or the last convolution.
struct ResNetBlock {
  Index kind;  // 0 same, 1 down, 2 up, 3 output
  Index C, M,
      K;       // channels of its input, between its convolutions (an output block has one alone, M = K), of its result
  Index H, W;  // of its result
};
struct ResNet {
  Index N, H, W;              // of the images that come in
  Index B;                    // at least 1
  const ResNetBlock* blocks;  // [B]
  float residual_scale;
};
// Addresses of six tensors a block: weight and bias of the first, second and skip convolution. Null: there is none.
using ResNetParams = const float* const;
using ResNetGrads = float* const;
// x[N,C,H,W] -> y: skip(x) + residual_scale * conv2(elu(conv1(elu(x)))), block after block; conv1(elu(x)) of an output
// block. Where a block goes down, conv1 and skip have stride 2; where it goes up, conv2 and skip are transposed
// convolutions of stride 2 (weights [in,out,3,3]); else skip is the identity.
// kept[N,F], or null: what the backward pass wants of this one, all written. Block after block the planes of its input
// (those of its four phases, channel by channel, where it goes down) and of what stands between its convolutions, each
// h rows of w + 1 floats, with h and w the smaller of the block's two sizes.
using ResNetForward = void(const ResNet&, ResNetParams* params, const float* x, Index n_threads, float* y, float* kept);
// Without `kept` the forward pass runs again, with the same result.
using ResNetBackward = void(const ResNet&, ResNetParams* params, const float* dy, const float* x, const float* kept,
                            Index n_threads, float* dx, ResNetGrads* grads);

struct Dense {
  Index N, C, K;
  bool pre_elu;
};
// y[N,K] = elu?(x[N,C]) weight[K,C]^T + bias[K]
using DenseForward = void(const Dense&, const float* x, const float* weight, const float* bias, Index n_threads,
                          float* y);
using DenseBackward = void(const Dense&, const float* dy, const float* x, const float* weight, Index n_threads,
                           float* dx, float* dweight, float* dbias);
// y = exp(x), [n]
using Exp = void(Index n, const float* x, float* y);
// y = x * logit - softplus(logit), [n]
using BernoulliLogProb = void(Index n, const float* x, const float* logits, float* y);
using BernoulliLogProbBackward = void(Index n, const float* dy, const float* x, const float* logits, float* dx,
                                      float* dlogits);

struct AdamaxStep {
  float step_size, beta1, beta2, epsilon;
  float keep;  // share of itself that the average keeps
};
// With the gradient of n weights: their moments exp_avg and exp_inf, the weights, and then the average move.
using Adamax = void(Index n, const AdamaxStep&, const float* grad, Index n_threads, float* weight, float* exp_avg,
                    float* exp_inf, float* average);

struct MADEFlow {
  Index N, D, M, T;
  bool scale;  // false: mean only; true: weight3 and bias3 carry D more rows, the log scales
};
struct MADEFlowParams {
  const float* weight1;         // [T,M,D]
  const float* bias1;           // [T,M]
  const float* weight2;         // [T,M,M]
  const float* bias2;           // [T,M]
  const float* weight3;         // [T,D or 2D,M]
  const float* bias3;           // [T,D or 2D]
  const std::int64_t* degrees;  // [M] non-decreasing in 0..D-1
};
struct MADEFlowGrads {  // as MADEFlowParams; forbidden connections get 0
  float *weight1, *bias1, *weight2, *bias2, *weight3, *bias3;
};
// z[N,D], hidden_context[N,T,M] or null -> eps[N,D], log_det[N]
using MADEFlowForward = void(const MADEFlow&, const MADEFlowParams&, const float* z, const float* hidden_context,
                             Index n_threads, float* eps, float* log_det);
// Gradients of sum(deps * eps) + sum(dlog_det * log_det); dhidden_context is null where hidden_context is.
using MADEFlowBackward = void(const MADEFlow&, const MADEFlowParams&, const float* z, const float* hidden_context,
                              const float* deps, const float* dlog_det, Index n_threads, float* dz,
                              float* dhidden_context, const MADEFlowGrads&);
// eps[N,D], hidden_context[N,T,M] or null -> z[N,D]
using MADEFlowInverse = void(const MADEFlow&, const MADEFlowParams&, const float* eps, const float* hidden_context,
                             Index n_threads, float* z);

// The flow of shifts alone on multiples of `grid`, a power of two: shifts are rounded to it, so that z -> eps and,
// where `inverse`, eps -> z undo each other exactly. NaN where a float is too short for that.
using MADEFlowLattice = void(const MADEFlow&, const MADEFlowParams&, float grid, bool inverse, const float* from,
                             Index n_threads, float* to);

// One layer of a net of any wiring. A unit of degree d sees the variables at positions < d and the units of degrees <=
// d; an output sees what stands before its variable. All 8 bytes wide: a table of numbers in Python.
struct MADELayer {
  const float* weight;            // [rows, columns]
  const float* bias;              // [rows], or null
  const std::int64_t* row;        // [rows] where weight and bias of a unit stand; null: in its place
  const std::uint8_t* forbidden;  // [rows, columns] of its units: 1 for a weight that counts as 0; null: none does
  const std::int64_t* degrees;    // [rows]; of the last layer, the outputs, not looked at
  const float* context;           // [N, rows], added; or null
  const float* gates;             // [N, rows], multiplied before anything is added; or null
  Index rows;
  Index weight_row, context_row, gates_row;  // floats from a row to the next
  Index source;                              // an earlier layer that it reads; -1: the variables
  Index activated;                           // whether it reads that layer's activations
  Index adds;                                // an earlier layer of as many rows whose values it adds, or -1
  Index feeds_activated;                     // whether a later layer reads its activations
};
// A transform by a net; the last layer has D rows, or 2D: the shifts, then what becomes scales.
struct MADEStep {
  const std::int64_t* positions;  // [D] where each variable comes in the order
  const std::int64_t* from;       // [D] which variable of the step before each variable is; null: the same
  Index L;
  Index activation, scale;  // made/maps.h; scale 0: D outputs
  double first, second;     // numbers of the scale
};
// T steps, one after the other.
struct MADE {
  Index N, D, T;
  const MADEStep* steps;      // [T]
  const MADELayer* layers;    // of all steps
  const std::int64_t* order;  // [D] which variable of the last step each of the result is; null: the same
  bool inverse;
};
// Each step is y = scale(x) * x + shift(x), or x back from y. x[N,D] -> y[N,D], log_det[N] of that direction.
using MADETransform = void(const MADE&, const float* x, Index n_threads, float* y, float* log_det);
// Back through the inverse of one step (T = 1, inverse false) at its result x[N,D]: from the gradients of x and
// log_det[N] that of what was given, dy[N,D].
using MADEInverseBackward = void(const MADE&, const float* x, const float* dx, const float* dlog_det, Index n_threads,
                                 float* dy);

// v[R,n], g[R], live[R] in 0..n (null: all n) -> w[R,n]: g * v / |v| in the first `live` entries of a row, of which
// alone the norm is taken; 0 beyond, and in rows of a norm below 1e-8.
using WeightNorm = void(Index R, Index n, const float* v, const float* g, const std::int64_t* live, Index n_threads,
                        float* w);
using WeightNormBackward = void(Index R, Index n, const float* dw, const float* v, const float* g,
                                const std::int64_t* live, Index n_threads, float* dv, float* dg);

// Every function, once: its type and its name. Those that a codec needs first: they are also compiled in plain
// arithmetic, where a product is rounded before it is added, as processors without fused multiply-add round it.
#define VLAE_CODEC_KERNELS(X)           \
  X(ResNetForward, resnet_forward)      \
  X(DenseForward, dense)                \
  X(Exp, exponential)                   \
  X(WeightNorm, weight_norm)            \
  X(PixelCNNSample, pixelcnn_sample)    \
  X(PixelCNNCode, pixelcnn_code)        \
  X(MADEFlowInverse, made_flow_inverse) \
  X(MADEFlowLattice, made_flow_lattice)
#define VLAE_KERNELS(X)                                    \
  VLAE_CODEC_KERNELS(X)                                    \
  X(MaskedConv3x3, masked_conv3x3)                         \
  X(MaskedConv3x3Backward, masked_conv3x3_backward)        \
  X(PixelCNNLogits, pixelcnn_logits)                       \
  X(PixelCNNLogProb, pixelcnn_log_prob)                    \
  X(PixelCNNBackward, pixelcnn_backward)                   \
  X(ResNetBackward, resnet_backward)                       \
  X(DenseBackward, dense_backward)                         \
  X(BernoulliLogProb, bernoulli_log_prob)                  \
  X(BernoulliLogProbBackward, bernoulli_log_prob_backward) \
  X(Adamax, adamax)                                        \
  X(MADEFlowForward, made_flow_forward)                    \
  X(MADEFlowBackward, made_flow_backward)                  \
  X(MADETransform, made_transform)                         \
  X(MADEInverseBackward, made_inverse_backward)            \
  X(WeightNormBackward, weight_norm_backward)

// One table of functions per instruction set; every source of them is compiled once for each.
struct Kernels {
  const char* isa;
  const Kernels* plain;  // its functions in plain arithmetic, of which only those of a codec are not null
#define VLAE_MEMBER(Type, name) Type* name = nullptr;
  VLAE_KERNELS(VLAE_MEMBER)
#undef VLAE_MEMBER
};
// Table i of those that this processor runs, best first; null past the last.
const Kernels* usable(Index i);
// The one in use: the best of them, or what the environment variable VLAE_FAST_ISA names, or `use` chose; throws
// std::runtime_error for a name in VLAE_FAST_ISA that is none of theirs.
const Kernels& kernels();
// Chooses another one of them, for the calls that begin from now on in any thread.
void use(const Kernels& table);
// From now on `kernels` gives this thread the plain arithmetic, or no longer; returns what was so before.
bool use_plain(bool plain);

// z[N,D] of multiples of grid is pushed under normal distributions (means and standard deviations [N,D]; null: 0 and
// 1), or popped. All integers but for the place of a bin's edge, one product in float64: the same everywhere.
void normal_code(Index N, Index D, float grid, const float* mean, const float* std, const Coders&, bool pop, float* z);

#ifdef VLAE_ISA  // set by the build for the sources that are compiled per instruction set
namespace VLAE_ISA {
#define VLAE_DECLARATION(Type, name) Type name;
VLAE_KERNELS(VLAE_DECLARATION)
#undef VLAE_DECLARATION
}  // namespace VLAE_ISA
#endif

}  // namespace vlae
