// The nets of a run of autoregressive steps as their work goes: units in the order of their degrees, and of each the
// weights for what it sees.
#pragma once
#include "made/made.h"

namespace vlae::VLAE_ISA::made {

// Units (or the variables) in the order of their degrees.
struct Order {
  Index* at;     // [units] the unit that comes p-th
  Index* place;  // [units] where a unit comes
  Index* below;  // [D + 2] how many are of a degree < d
  Index seen(Index degree) const { return below[degree + 1]; }
};

struct Layer {
  const MADELayer* given;
  Order order;
  const Order* source;   // of what it reads
  Index columns, first;  // what it reads, and the units of the layers before it
  float* weights;        // [rows][1 + columns]: the bias of the p-th unit, then its weights as far as it sees

  const float* row(Index p) const { return weights + p * (1 + columns); }
};

struct Net {
  const MADEStep* given;
  Order variables;
  Layer* layers;
};

class Nets {
 public:
  Nets(const MADE&, Index n_threads);
  const Net& operator[](Index t) const { return nets_[t]; }
  Index most_units() const { return most_units_; }  // that one net has

 private:
  Index most_units_ = 0;
  Array<Net> nets_;
  Array<Layer> layers_;
  Array<Index> orders_;
  Scratch weights_;
};

}  // namespace vlae::VLAE_ISA::made
