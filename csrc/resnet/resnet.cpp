// The plan of a ResNet, and the way of a group of images through it.
#include "resnet/resnet.h"

namespace vlae::VLAE_ISA::resnet {

namespace {

Index max(Index a, Index b) { return a > b ? a : b; }

Block make_block(const ResNetBlock& given, const Layout& in, float scale, ResNetParams* params, bool backward) {
  const Kind kind = static_cast<Kind>(given.kind);
  const Layout out(given.H, given.W, in.G);
  const auto half = kind == down ? Conv::halving : Conv::none, twice = kind == up ? Conv::doubling : Conv::none;
  const bool is_output = kind == output;
  const Index C = given.C, M = is_output ? 0 : given.M, K = given.K;
  Block block = {.kind = kind,
                 .C = C,
                 .M = M,
                 .K = K,
                 .in = in,
                 .out = out,
                 .low = kind == down ? out : in,
                 .conv1 = {half, C, is_output ? K : M, params[0], params[1], 1.0f},
                 .conv2 = {twice, M, K, params[2], params[3], scale},
                 .skip = {kind == up ? twice : half, C, K, params[4], params[5], 1.0f}};
  block.activations = block.input_phases() * C;
  block.middle = 2 * block.activations;
  block.dout = block.middle + padded(M);
  block.dmiddle = block.dout + (backward ? block.result_phases() * padded(K) : 0);
  block.floats = (block.dmiddle + (backward ? padded(M) : 0)) * block.low.plane;
  return block;
}

// Floats that `Plan::pack` takes for the filters of a block at most.
Index packed_floats(const Block& b) {
  const auto filters = [](Index inputs, Index outputs, Index count) {
    return count * (2 * padded_inputs(9 * inputs) + packed_size(9 * inputs, outputs) + 32);
  };
  const Index biases = padded(b.M) + padded(b.K) + 3 * b.low.pixels + 64;
  return biases + filters(b.C, b.M, 1) + filters(b.C + max(b.M, b.C), b.K, phases) + filters(b.K, b.M, 1) +
         filters(b.K, b.C, phases) + filters(max(b.M, b.K), b.C, phases);
}

// Small images go through the blocks several at a time, so that the long rows are worth beginning.
Index images_at_once(const ResNet& net) {
  Index smallest = (net.H + 1) * (net.W + 1);
  for (Index k = 0; k < net.B; ++k) {
    const Index pixels = (net.blocks[k].H + 1) * (net.blocks[k].W + 1);
    if (pixels < smallest) smallest = pixels;
  }
  const Index most = net.N < 4 ? net.N : 4, images = 128 / smallest < most ? 128 / smallest : most;
  return images < 1 ? 1 : images;
}

}  // namespace

Plan::Plan(const ResNet& net, ResNetParams* params, bool backward)
    : net(net),
      G(images_at_once(net)),
      block(net.B),
      arena_memory_([&] {
        Layout in(net.H, net.W, G);
        Index size = 0;
        temporary = net.blocks[0].C * in.plane;
        for (Index k = 0; k < net.B; ++k) {
          const Block made = make_block(net.blocks[k], in, net.residual_scale, params + 6 * k, backward);
          temporary = max(temporary, padded(made.K) * max(made.out.plane, made.result_phases() * made.low.plane));
          temporary = max(temporary, made.input_phases() * padded(made.C) * made.low.plane);
          floats += made.floats;
          kept += (made.input_phases() * made.C + made.M) * made.kept_pixels();
          if (backward) turned = max(turned, made.low.plane * round_up(max(made.C, max(made.M, made.K)), 16));
          size += packed_floats(made);
          block[k] = made;
          in = made.out;
        }
        return size;
      }()),
      arena_(arena_memory_) {
  for (Index k = 0; k < net.B; ++k) pack(block[k], backward);
}

// for_inputs(visit) calls visit(offset, weight of output 0, distance between outputs' weights, scale) for every input.
template <class ForInputs>
Filter Plan::make_filter(Index inputs, Index outputs, ForInputs for_inputs) {
  Index* const offset = reinterpret_cast<Index*>(arena_);
  arena_ += round_up(2 * padded_inputs(inputs), 16);
  float* const packed = arena_;
  arena_ += round_up(packed_size(inputs, outputs), 16);
  struct Source {
    const float* weight;
    Index outputs_apart;
    float scale;
  };
  const Array<Source> source(inputs);
  Index count = 0;
  for_inputs([&](Index at, const float* weight, Index outputs_apart, float scale) {
    offset[count] = at;
    source[count++] = {weight, outputs_apart, scale};
  });
  for (Index i = count; i < padded_inputs(inputs); ++i) offset[i] = offset[count - 1];
  pack_weights(
      inputs, outputs,
      [&](Index o, Index i) { return source[i].scale * source[i].weight[o * source[i].outputs_apart]; }, packed);
  return {inputs, outputs, offset, packed};
}

float* Plan::make_bias(Index channels, const float* a, float scale, const float* b) {
  float* const bias = arena_;
  arena_ += round_up(padded(channels), 16);
  for (Index c = 0; c < padded(channels); ++c) bias[c] = c < channels ? scale * a[c] + (b ? b[c] : 0.0f) : 0.0f;
  return bias;
}

void Plan::pack(Block& b, bool backward) {
  const Layout& low = b.low;
  const auto count = [&](const Conv& conv, Index p, bool transposed) {
    Index n = 0;
    const auto add = [&](Index, Index, Index) { ++n; };
    transposed ? conv.for_outputs(low, p, add) : conv.for_inputs(low, p, add);
    return n;
  };
  const auto list = [&](const Conv& conv, Index p, Index first, auto visit) {
    conv.for_inputs(low, p, [&](Index c, Index tap, Index offset) {
      const Index apart = conv.index(1, 0, 0);
      visit(first * low.plane + offset, conv.weight + conv.index(0, c, tap), apart, conv.scale);
    });
  };
  const auto transposed = [&](const Conv& conv, Index p, Index first) {
    return make_filter(count(conv, p, true), conv.inputs, [&](auto visit) {
      conv.for_outputs(low, p, [&](Index o, Index tap, Index offset) {
        const Index apart = conv.index(0, 1, 0);
        visit(first * low.plane + offset, conv.weight + conv.index(o, 0, tap), apart, conv.scale);
      });
    });
  };

  b.inside = reinterpret_cast<std::int32_t*>(arena_);
  arena_ += round_up(low.pixels, 16);
  low.inside(b.inside);
  b.pixels = reinterpret_cast<Index*>(arena_);
  arena_ += round_up(2 * low.pixels, 16);
  b.pixel_count = 0;
  for (Index q = 0; q < low.pixels; ++q)
    if (b.inside[q]) b.pixels[b.pixel_count++] = q;
  b.bias1 = make_bias(b.M, b.conv1.bias, 1.0f, nullptr);
  b.bias2 = make_bias(b.K, b.last().bias, b.last().scale, b.has_skip() ? b.skip.bias : nullptr);
  if (!b.is_output())
    b.first = make_filter(count(b.conv1, 0, false), b.M, [&](auto visit) { list(b.conv1, 0, b.activations, visit); });
  for (Index p = 0; p < b.result_phases(); ++p)
    b.second[p] =
        make_filter(count(b.last(), p, false) + (b.has_skip() ? count(b.skip, p, false) : 0), b.K, [&](auto visit) {
          if (b.has_skip()) list(b.skip, p, 0, visit);
          list(b.last(), p, b.last_input(), visit);
        });
  if (!backward) return;
  if (!b.is_output()) b.dmiddle_filter = transposed(b.conv2, 0, b.dout);
  for (Index p = 0; p < b.input_phases(); ++p) {
    if (b.has_skip()) b.dskip[p] = transposed(b.skip, p, b.dout);
    b.dinput[p] = transposed(b.conv1, p, b.is_output() ? b.dout : b.dmiddle);
  }
}

namespace {

// A block's input, through ELU, to where its convolutions read it.
void activate(const Block& b, float* e) {
  for (Index c = 0; c < b.activations; ++c)
    for (Index q = 0; q < b.low.pixels; q += lanes)
      store(e + (b.activations + c) * b.low.plane + q, elu(load(e + c * b.low.plane + q)));
}

}  // namespace

Group::Group(const Plan& plan)
    : plan_(plan),
      start_(plan.net.B),
      memory_(plan.floats),
      maps_(plan.temporary),
      phases_(plan.temporary),
      turned_(plan.turned) {
  set_zero(memory_, plan.floats);
  set_zero(maps_, plan.temporary);
  set_zero(phases_, plan.temporary);
  Index next = 0;
  for (Index k = 0; k < plan.net.B; ++k) {
    start_[k] = next;
    next += plan.block[k].floats;
  }
}

// Skips read the input itself, all others read it through ELU alone.
template <class Visit>
void Group::for_kept(Index count, Visit visit) const {
  Index at = 0;
  for (Index k = 0; k < plan_.net.B; ++k) {
    const Block& b = plan_.block[k];
    float* const e = planes(k);
    const auto planes_from = [&](Index first, Index planes) {
      for (Index c = 0; c < planes; ++c, at += b.kept_pixels())
        for (Index g = 0; g < count; ++g)
          visit(e + (first + c) * b.low.plane + g * b.low.image, g * plan_.kept + at, b.kept_pixels() * sizeof(float));
    };
    planes_from(b.has_skip() ? 0 : b.activations, b.activations);
    planes_from(b.middle, b.M);
  }
}

void Group::save(Index count, float* kept) const {
  for_kept(count, [&](float* plane, Index at, Index bytes) { __builtin_memcpy(kept + at, plane, bytes); });
}

void Group::restore(Index count, const float* kept) const {
  for_kept(count, [&](float* plane, Index at, Index bytes) { __builtin_memcpy(plane, kept + at, bytes); });
  for (Index k = 0; k < plan_.net.B; ++k)
    if (plan_.block[k].has_skip()) activate(plan_.block[k], planes(k));
}

void Group::forward(const float* x, Index count, float* y) const {
  const ResNet& net = plan_.net;
  const Layout& in = plan_.block[0].in;
  const Index C = plan_.block[0].C;
  // Where the feature maps before block k are wanted: maps_, or the block's own planes.
  const auto wanted = [&](Index k, Index& plane) -> float* {
    const bool own = k < net.B && plan_.block[k].kind != down;
    plane = k < net.B ? plan_.block[k].in.plane : plan_.last().out.plane;
    return own ? planes(k) : maps_ + 0;
  };
  Index plane;
  float* const first = wanted(0, plane);
  for (Index g = 0; g < count; ++g)
    for (Index c = 0; c < C; ++c) in.to_plane(x + (g * C + c) * net.H * net.W, first + c * plane + g * in.image);

  for (Index k = 0; k < net.B; ++k) {
    const Block& b = plan_.block[k];
    const Layout& low = b.low;
    float* const e = planes(k);
    if (b.kind == down)
      for (Index c = 0; c < b.C; ++c)
        split(b.in, low, count, maps_ + c * b.in.plane, e + phases * c * low.plane, low.plane);
    activate(b, e);
    if (!b.is_output()) {
      float* const middle = e + b.middle * low.plane;
      convolve(b.first, e, low.pixels, [&](Index o, Index q, Index length, const float* sums) {
        float* const to = middle + o * low.plane + q;
        const float bias = b.bias1[o];
        for (Index i = 0; i < length; i += lanes)
          store(to + i, keep(load_mask(b.inside + q + i), elu(load(sums + i) + bias)));
      });
    }
    Index next_plane;
    float* const next = wanted(k + 1, next_plane);
    const bool merges = b.kind == up;
    for (Index p = 0; p < b.result_phases(); ++p)
      convolve(b.second[p], e, low.pixels, [&](Index o, Index q, Index length, const float* sums) {
        if (o >= b.K) return;
        float* const to = merges ? phases_ + (phases * o + p) * low.plane + q : next + o * next_plane + q;
        const float bias = b.bias2[o];
        const float* const input = e + o * low.plane + q;
        const bool adds = b.kind == same;
        for (Index i = 0; i < length; i += lanes) {
          V v = load(sums + i) + bias;
          if (adds) v += load(input + i);
          store(to + i, keep(load_mask(b.inside + q + i), v));
        }
      });
    if (merges)
      for (Index o = 0; o < b.K; ++o)
        merge(b.out, low, count, phases_ + phases * o * low.plane, low.plane, next + o * next_plane);
  }
  if (!y) return;
  const Layout& out = plan_.last().out;
  const Index K = plan_.last().K;
  for (Index g = 0; g < count; ++g)
    for (Index o = 0; o < K; ++o) out.to_image(maps_ + o * out.plane + g * out.image, y + (g * K + o) * out.H * out.W);
}

}  // namespace vlae::VLAE_ISA::resnet

namespace vlae::VLAE_ISA {

using namespace resnet;

void resnet_forward(const ResNet& net, ResNetParams* params, const float* x, Index n_threads, float* y, float* kept) {
  const Plan plan(net, params, false);
  const Index in = plan.block[0].C * net.H * net.W, out = plan.last().K * plan.last().out.H * plan.last().out.W,
              G = plan.G;
  parallel(n_threads, net.N, G, [&](Index begin, Index end) {
    const Group group(plan);
    for (Index n = begin; n < end; n += G) {
      const Index count = end - n < G ? end - n : G;
      group.forward(x + n * in, count, y + n * out);
      if (kept) group.save(count, kept + n * plan.kept);
    }
  });
}

}  // namespace vlae::VLAE_ISA
