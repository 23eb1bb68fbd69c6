// Sampling direction, degree after degree: each hidden unit is computed once, when the inputs it sees are known.
//
// Degrees are taken in blocks of about 32 units. What a block's units owe to earlier blocks is one dense product over
// all samples; what they owe to their own block follows degree by degree, with the outputs fed as soon as units are
// known.
#include "made/made.h"

namespace vlae::VLAE_ISA {

using namespace made;

namespace {

constexpr Index samples_worth_packing = 8;  // fewer read the weights in place

struct Block {
  Index degree_begin, degree_end, unit_begin, unit_end;
  Index units() const { return unit_end - unit_begin; }
};

// As many degrees as fit in one panel, at least one.
Block next_block(const Prefixes& prefixes, Index D, Index degree) {
  const Index* below = prefixes.below;
  Index end = degree + 1;
  while (end < D && below[end + 1] - below[degree] <= panel_width) ++end;
  return {degree, end, below[degree], below[end]};
}

Index largest_block(const Prefixes& prefixes, Index D) {
  Index units = 0;
  for (Block block = {}; block.degree_end < D;) {
    block = next_block(prefixes, D, block.degree_end);
    if (block.units() > units) units = block.units();
  }
  return units;
}

// sums[i] lane l: sums[i]'s or sums[i + half]'s lanes l and l ^ half added, of the latter where l has the bit `half`.
template <int half>
inline void add_lanes(V (&sums)[lanes]) {
#pragma GCC unroll 8
  for (int i = 0; i < half; ++i) {
    const V own = shuffle<[](int l) { return l & half ? l + lanes : l; }>(sums[i], sums[i + half]);
    const V other = shuffle<[](int l) { return l & half ? l - half + lanes : l + half; }>(sums[i], sums[i + half]);
    sums[i] = own + other;
  }
  if constexpr (half > 1) add_lanes<half / 2>(sums);
}

// The first levels of the tree of `sum(Wide)`, down to one vector.
inline V fold(Wide w) {
  if constexpr (lanes == 16)
    return w.part[0];
  else if constexpr (lanes == 8)
    return w.part[0] + w.part[1];
  else
    return (w.part[0] + w.part[2]) + (w.part[1] + w.part[3]);
}

constexpr int rows_at_once = vector_registers == 32 ? lanes : lanes / 2;  // whose 16 partial sums fit in registers

// out[n][r] += the dot product of x[n][0..terms) and row r of a matrix of `lanes` rows: 16 interleaved partial sums,
// then a tree; terms is a multiple of 16. The matrix's rows lie `stride` apart, or are packed: 16 columns of all rows,
// then the next.
template <bool packed>
[[gnu::noinline]] void add_dots(const float* matrix, Index stride, Index terms, Index N, const float* x, Index x_row,
                                float* out, Index out_row) {
  const Index row = packed ? 16 : stride, group = packed ? 16 * lanes : 16;
  for (Index n = 0; n < N; ++n, x += x_row, out += out_row) {
    V sums[lanes];
    for (int first = 0; first < lanes; first += rows_at_once) {
      Wide partial[rows_at_once] = {};
      const float* columns = matrix + first * row;
      for (Index p = 0; p < terms; p += 16, columns += group) {
        const Wide v = load_wide(x + p);
#pragma GCC unroll 16
        for (int r = 0; r < rows_at_once; ++r) partial[r] = fma(v, load_wide(columns + r * row), partial[r]);
      }
#pragma GCC unroll 16
      for (int r = 0; r < rows_at_once; ++r) sums[first + r] = fold(partial[r]);
    }
    add_lanes<lanes / 2>(sums);
    store(out, load(out) + sums[0]);
  }
}

void fill_rows(Index N, const float* from, Index count, float* to, Index row) {
  float padded_from[panel_width];
  copy_padded(from, count, padded_from);
  for (Index n = 0; n < N; ++n)
    for (Index i = 0; i < panel_width; ++i) to[n * row + i] = padded_from[i];
}

void relu_rows(Index N, Index width, const float* from, float* to, Index to_row) {
  for (Index n = 0; n < N; ++n)
    for (Index i = 0; i < width; i += lanes) store(to + n * to_row + i, relu(load(from + n * width + i)));
}

// Which multiples of a power of two the values are; 0: they are any. On a lattice both directions run here, as the
// order of the sums is to be the same.
struct Lattice {
  float grid = 0;
  bool inverse = true;

  // The nearest one, as far as floats tell them apart.
  float nearest(float v) const {
    constexpr float magic = 12582912.0f;
    const float k = v / grid;
    return (k * k < 0x1p42f ? (k + magic) - magic : k) * grid;
  }
};

// The steps for a chunk of at most N samples, and the memory for it.
class Inverse {
 public:
  Inverse(const MADEFlow& s, const Prefixes& prefixes, Index N, const Lattice& lattice = {})
      : s_(s),
        prefixes_(prefixes),
        lattice_(lattice),
        D_(padded(s.D)),
        hidden_row_(padded(s.M) + panel_width),
        block_(padded(largest_block(prefixes, s.D))),
        x_(N * D_),
        z_(N * D_),
        mean_(N * D_),
        scale_(s.scale ? N * D_ : 0),
        column_(N + lanes),
        hidden1_(N * hidden_row_),
        sum1_(N * block_),
        sum2_(N * block_),
        hidden2_(N * block_),
        panel1_(block_ * s.D),
        panel2_(block_ * s.M),
        panel3_(block_ * D_ * 2),
        dense_(lanes * s.M) {}

  float* z() const { return z_.data(); }
  Index row() const { return D_; }

  // z = the inverse of one step at z; in the lattice's other direction, the step at z
  void undo(const Step& step, Index N, const float* context, Index context_row) const {
    for (Index n = 0; n < N; ++n)
      for (Index j = 0; j < s_.D; ++j) x_.data()[n * D_ + j] = z()[n * D_ + s_.D - 1 - j];
    for (Index j = 0; j < s_.D; j += panel_width) {
      fill_rows(N, step.mean_bias + j, s_.D - j, mean_.data() + j, D_);
      if (s_.scale) fill_rows(N, step.scale_bias + j, s_.D - j, scale_.data() + j, D_);
    }
    for (Block block = {}; block.degree_end < s_.D;) {
      block = next_block(prefixes_, s_.D, block.degree_end);
      begin_block(step, block, N, context, context_row);
      for (Index degree = block.degree_begin; degree < block.degree_end; ++degree) {
        lattice_.grid == 0 ? draw(degree, N) : shift(degree, N);
        feed(block, degree, N);
      }
    }
    if (!lattice_.inverse)
      for (Index n = 0; n < N; ++n)
        for (Index j = 0; j < s_.D; ++j) z()[n * D_ + j] = x_.data()[n * D_ + s_.D - 1 - j];
  }

 private:
  void begin_block(const Step& step, const Block& block, Index N, const float* context, Index context_row) const {
    const Index width = padded(block.units()), dense = block.unit_begin / 16 * 16;
    for (Index i = 0; i < width; i += panel_width) {
      const Index unit = block.unit_begin + i, count = block.unit_end - unit;
      float *sum1 = sum1_.data() + i, *sum2 = sum2_.data() + i;
      float *panel1 = panel1_.data() + i * block.degree_end, *panel2 = panel2_.data() + i * block.unit_end;
      pack_transposed(step.layer1, unit, 0, block.degree_end, panel1);
      pack_transposed(step.layer2, unit, dense, block.unit_end, panel2 + dense * panel_width);
      fill_rows(N, step.bias1 + unit, count, sum1, width);
      fill_rows(N, step.bias2 + unit, count, sum2, width);
      if (context)
        for (Index n = 0; n < N; ++n)
          for (Index u = 0; u < min(count, panel_width); ++u)
            sum1[n * width + u] += context[n * context_row + unit + u];
      multiply(N, z(), D_, 1, panel1, block.degree_begin, sum1, width);
      for (Index r = 0; r < min(panel_width, count); r += lanes)
        add_dense(step.layer2, unit + r, dense, N, sum2 + r, width);
      multiply(N, hidden1_.data() + dense, hidden_row_, 1, panel2 + dense * panel_width, block.unit_begin - dense, sum2,
               width);
    }
    for (Index j = (block.degree_begin + 1) / panel_width * panel_width; j < D_; j += panel_width) {
      pack_transposed(step.mean, j, block.unit_begin, block.unit_end, panel3(block, j));
      if (s_.scale) pack_transposed(step.scale, j, block.unit_begin, block.unit_end, panel3(block, D_ + j));
    }
  }

  // out[:, 0..lanes) += the products of the earlier units 0..terms with the weights of the units from `unit` on.
  void add_dense(const MaskedMatrix& m, Index unit, Index terms, Index N, float* out, Index out_row) const {
    const float* weight = m.weight + unit * m.columns;
    const float* x = hidden1_.data();
    const bool in_place = N < samples_worth_packing && unit + lanes <= m.rows;
    if (in_place) return add_dots<false>(weight, m.columns, terms, N, x, hidden_row_, out, out_row);
    float* packed = dense_.data();
    for (Index p = 0; p < terms; p += 16)
      for (Index r = 0; r < lanes; ++r)
        for (Index i = 0; i < 16; i += lanes)
          store(packed + p * lanes + r * 16 + i, load(weight + min(r, m.rows - 1 - unit) * m.columns + p + i));
    add_dots<true>(packed, 0, terms, N, x, hidden_row_, out, out_row);
  }

  // z[:, degree] = x * exp(scale) + mean
  void draw(Index degree, Index N) const {
    float* column = column_.data();
    if (s_.scale) {
      for (Index n = 0; n < N; ++n) column[n] = scale_.data()[n * D_ + degree];
      for (Index n = 0; n < N; n += lanes) store(column + n, exp(load(column + n)));
    }
    for (Index n = 0; n < N; ++n) {
      const Index i = n * D_ + degree;
      float drawn = mean_.data()[i];
      drawn += s_.scale ? x_.data()[i] * column[n] : x_.data()[i];
      z()[i] = drawn;
    }
  }

  // z[:, degree] = x + mean on the lattice, or x from z; NaN where the sum is rounded.
  void shift(Index degree, Index N) const {
    constexpr float inexact = __builtin_nanf("");
    for (Index n = 0; n < N; ++n) {
      const Index i = n * D_ + degree;
      float &x = x_.data()[i], &z = z_.data()[i];
      const float mean = lattice_.nearest(mean_.data()[i]);
      if (lattice_.inverse) {
        z = x + mean;
        if (z - mean != x) z = inexact;
      } else {
        x = z - mean;
        if (x + mean != z) x = inexact;
      }
    }
  }

  // Hands z[:, degree] to the units that see it, and the units of this degree to all that sees them.
  void feed(const Block& block, Index degree, Index N) const {
    const Index width = padded(block.units()), begin = prefixes_.below[degree],
                units = prefixes_.below[degree + 1] - begin;
    for (Index i = 0; i < width; i += panel_width)
      multiply(N, z() + degree, D_, 1, panel1_.data() + i * block.degree_end + degree * panel_width, 1,
               sum1_.data() + i, width);
    if (units == 0) return;
    relu_rows(N, width, sum1_.data(), hidden1_.data() + block.unit_begin, hidden_row_);
    for (Index i = 0; i < width; i += panel_width)
      multiply(N, hidden1_.data() + begin, hidden_row_, 1, panel2_.data() + i * block.unit_end + begin * panel_width,
               units, sum2_.data() + i, width);
    relu_rows(N, width, sum2_.data(), hidden2_.data(), width);
    const Index unit = begin - block.unit_begin;
    for (Index j = (degree + 1) / panel_width * panel_width; j < D_; j += panel_width) {
      multiply(N, hidden2_.data() + unit, width, 1, panel3(block, j) + unit * panel_width, units, mean_.data() + j, D_);
      if (s_.scale)
        multiply(N, hidden2_.data() + unit, width, 1, panel3(block, D_ + j) + unit * panel_width, units,
                 scale_.data() + j, D_);
    }
  }

  // The panel of the outputs from j on (D_ + j: their scales), all units of the block.
  float* panel3(const Block& block, Index j) const { return panel3_.data() + j * block.units(); }

  const MADEFlow& s_;
  const Prefixes& prefixes_;
  const Lattice lattice_;
  const Index D_, hidden_row_, block_;  // D and M padded, the widest block padded
  const Scratch x_, z_, mean_, scale_, column_, hidden1_, sum1_, sum2_, hidden2_, panel1_, panel2_, panel3_, dense_;
};

void run(const MADEFlow& s, const MADEFlowParams& p, const Lattice& lattice, const float* from,
         const float* hidden_context, Index n_threads, float* to) {
  const Prefixes prefixes(s, p.degrees);
  parallel(n_threads, s.N, grain, [&](Index thread_begin, Index thread_end) {
    const Inverse inverse(s, prefixes, min(thread_end - thread_begin, chunk_size), lattice);
    for (Index begin = thread_begin; begin < thread_end; begin += chunk_size) {
      const Index N = min(thread_end - begin, chunk_size);
      copy_rows(N, s.D, from + begin * s.D, s.D, inverse.z(), inverse.row());
      for (Index i = 0; i < s.T; ++i) {
        const Index t = lattice.inverse ? s.T - 1 - i : i;
        inverse.undo(step_at(s, p, prefixes, t), N, hidden_context ? hidden_context + (begin * s.T + t) * s.M : nullptr,
                     s.T * s.M);
      }
      copy_rows(N, s.D, inverse.z(), inverse.row(), to + begin * s.D, s.D);
    }
  });
}

}  // namespace

void made_flow_inverse(const MADEFlow& s, const MADEFlowParams& p, const float* eps, const float* hidden_context,
                       Index n_threads, float* z) {
  run(s, p, {}, eps, hidden_context, n_threads, z);
}

void made_flow_lattice(const MADEFlow& s, const MADEFlowParams& p, float grid, bool inverse, const float* from,
                       Index n_threads, float* to) {
  run(s, p, {grid, inverse}, from, nullptr, n_threads, to);
}

}  // namespace vlae::VLAE_ISA
