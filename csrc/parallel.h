// Threads and scratch memory. Compiled once: what stands in parallel.cpp may use the standard library, the sources that
// are compiled per instruction set may not (its inline functions would be shared between instruction sets).
#pragma once
#include "vlae.h"

namespace vlae {

// Calls body(closure, begin, end) for disjoint ranges that cover 0..count, on at most n_threads threads (the caller is
// one of them), each range a multiple of `grain` long but for the last. Exceptions of the body are passed on.
void parallel_ranges(Index n_threads, Index count, Index grain, void (*body)(void*, Index, Index), void* closure);

// Uninitialised memory, aligned to 64 bytes; throws std::bad_alloc.
class Scratch {
 public:
  explicit Scratch(Index floats);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* data() const { return data_; }

 private:
  float* data_;
};

#ifdef VLAE_ISA
namespace VLAE_ISA {
// parallel(n_threads, count, grain, [&](Index begin, Index end) { ... })
template <class Body>
void parallel(Index n_threads, Index count, Index grain, Body body) {
  parallel_ranges(
      n_threads, count, grain,
      [](void* closure, Index begin, Index end) { (*static_cast<Body*>(closure))(begin, end); }, &body);
}
}  // namespace VLAE_ISA
#endif

}  // namespace vlae
