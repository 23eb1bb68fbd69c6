#include "core/parallel.h"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <new>
#include <thread>
#include <vector>

namespace vlae {

void parallel_ranges(Index n_threads, Index count, Index grain, void (*body)(void*, Index, Index), void* closure) {
  const Index blocks = (count + grain - 1) / grain;
  const Index workers = std::clamp<Index>(n_threads, 1, std::max<Index>(blocks, 1));
  std::vector<std::exception_ptr> errors(workers);
  const auto run = [&](Index worker) {
    const Index begin = blocks * worker / workers * grain;
    const Index end = std::min(blocks * (worker + 1) / workers * grain, count);
    try {
      if (begin < end) body(closure, begin, end);
    } catch (...) {
      errors[worker] = std::current_exception();
    }
  };
  {
    // Threads of this call alone: nothing outlives it, so a fork between two calls is safe.
    std::vector<std::thread> threads;
    threads.reserve(workers - 1);
    Index started = 1;
    try {
      for (; started < workers; ++started) threads.emplace_back(run, started);
    } catch (const std::exception&) {
      // There are no more threads to be had: the caller does the work of those that did not start.
    }
    run(0);
    for (; started < workers; ++started) run(started);
    for (std::thread& thread : threads) thread.join();
  }
  for (const std::exception_ptr& error : errors)
    if (error) std::rethrow_exception(error);
}

Scratch::Scratch(Index floats) {
  constexpr std::size_t alignment = 64;
  const std::size_t bytes = (static_cast<std::size_t>(floats) * sizeof(float) + alignment) / alignment * alignment;
  data_ = static_cast<float*>(std::aligned_alloc(alignment, bytes));
  if (!data_) throw std::bad_alloc();
}

Scratch::~Scratch() { std::free(data_); }

}  // namespace vlae
