// Scoring: one image at a time a thread, a run of pixels through all stages before the next, so that what a stage reads
// was written just now. The stack is causal: a run needs of the pixels before it only the last row and a pixel, which
// each stage keeps in front of its window.
#include "pixelcnn/stack.h"

namespace vlae::VLAE_ISA {

using namespace pixelcnn;

namespace {

// Calls consume(n, x plane, logits plane) for every image.
template <class Consume>
void for_each_image(const PixelCNN& s, const PixelCNNParams& p, const float* x, const float* context, Index n_threads,
                    Consume consume) {
  const Layout layout(s.H, s.W);
  const Index run = round_up(layout.margin > 128 ? layout.margin : 128, tile);
  const Stack stack(s, p, layout, plane_size(layout.margin + run));
  parallel(n_threads, s.N, 1, [&](Index begin, Index end) {
    const Input input(s, layout);
    const Index windows = (stack.stages + 1) * padded(s.C);
    const Array<float> e(windows * stack.plane), h(padded(s.C) * run), logits(layout.pixels);
    for (Index n = begin; n < end; ++n) {
      input.read(s, n, x, context);
      for (Index k = 0; k < windows; ++k) set_zero(e + k * stack.plane, layout.margin);
      for (Index q = 0; q < layout.pixels; q += run) {
        const Index count = layout.pixels - q < run ? layout.pixels - q : run;
        stack.run(q, count, input.planes() + q, h, e + layout.margin, logits + q);
        for (Index k = 0; k < windows; ++k)
          __builtin_memcpy(e + k * stack.plane, e + k * stack.plane + run, layout.margin * sizeof(float));
      }
      consume(n, input.image(), logits);
    }
  });
}

}  // namespace

void pixelcnn_logits(const PixelCNN& s, const PixelCNNParams& p, const float* x, const float* context, Index n_threads,
                     float* logits) {
  const Layout layout(s.H, s.W);
  for_each_image(s, p, x, context, n_threads,
                 [&](Index n, const float*, const float* plane) { layout.to_image(plane, logits + n * s.H * s.W); });
}

void pixelcnn_log_prob(const PixelCNN& s, const PixelCNNParams& p, const float* x, const float* context,
                       Index n_threads, float* log_prob) {
  const Layout layout(s.H, s.W);
  const Array<std::int32_t> inside(layout.pixels);
  layout.inside(inside);
  for_each_image(s, p, x, context, n_threads, [&](Index n, const float* image, const float* logits) {
    double total = 0.0;
    for (Index q = 0; q < layout.pixels; q += 16) {
      Wide terms;
      for (int k = 0; k < 16 / lanes; ++k, image += lanes, logits += lanes) {
        const V logit = load(logits);
        terms.part[k] = keep(load_mask(inside + q + k * lanes), fma(load(image), logit, -softplus(logit)));
      }
      total += sum(terms);
    }
    log_prob[n] = static_cast<float>(total);
  });
}

}  // namespace vlae::VLAE_ISA
