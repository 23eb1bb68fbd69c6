// Threads and scratch memory. Compiled once: what stands in parallel.cpp may use the standard library, the sources that
// are compiled per instruction set may not (its inline functions would be shared between instruction sets).
#pragma once
#include "vlae.h"

namespace vlae {

// Calls body(closure, begin, end) for disjoint ranges that cover 0..count, on at most n_threads threads (the caller is
// one of them; fewer where no more can be started), each range a multiple of `grain` long but for the last. Exceptions
// of the body are passed on.
void parallel_ranges(Index n_threads, Index count, Index grain, void (*body)(void*, Index, Index), void* closure);

// Uninitialised memory, aligned to 64 bytes; throws std::bad_alloc.
class Scratch {
 public:
  explicit Scratch(Index floats);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  // Never a function of its own: instruction sets would share it.
  [[gnu::always_inline]] float* data() const { return data_; }

 private:
  float* data_;
};

#ifdef VLAE_ISA
namespace VLAE_ISA {
// n elements of a plain type, uninitialised.
template <class T>
class Array {
  static_assert(sizeof(T) % sizeof(float) == 0);

 public:
  explicit Array(Index n) : memory_(n * Index{sizeof(T) / sizeof(float)}) {}
  operator T*() const { return reinterpret_cast<T*>(memory_.data()); }

 private:
  Scratch memory_;
};

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
