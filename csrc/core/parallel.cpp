#include "core/parallel.h"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <new>
#include <thread>
#include <vector>

// OpenMP's threads, where a library that has them was loaded before (torch's); else null. They wait for work, which
// spares their start; and while torch's still spin after its own work, others would have to share their cores.
extern "C" {
[[gnu::weak]] void GOMP_parallel(void (*)(void*), void*, unsigned n_threads, unsigned flags);
[[gnu::weak]] int omp_get_thread_num();
[[gnu::weak]] int omp_get_num_threads();
}

namespace vlae {

namespace {

// Threads that run(worker) is called on with each worker once.
using Threads = void(Index n_threads, Index workers, void (*run)(const void*, Index), const void* closure);

void openmp(Index n_threads, Index workers, void (*run)(const void*, Index), const void* closure) {
  struct Call {
    Index workers;
    void (*run)(const void*, Index);
    const void* closure;
  } call = {workers, run, closure};
  const auto share = [](void* data) {
    const Call& call = *static_cast<const Call*>(data);
    for (Index i = omp_get_thread_num(); i < call.workers; i += omp_get_num_threads()) call.run(call.closure, i);
  };
  // All of them: a team that shrinks ends threads that the next call would have to start.
  GOMP_parallel(share, &call, static_cast<unsigned>(n_threads), 0);
}

// Threads of this call alone.
void started(Index, Index workers, void (*run)(const void*, Index), const void* closure) {
  std::vector<std::thread> threads;
  threads.reserve(workers - 1);
  Index started = 1;
  try {
    for (; started < workers; ++started) threads.emplace_back(run, closure, started);
  } catch (const std::exception&) {
    // There are no more threads to be had: the caller does the work of those that did not start.
  }
  run(closure, 0);
  for (; started < workers; ++started) run(closure, started);
  for (std::thread& thread : threads) thread.join();
}

// OpenMP's threads do not outlive a fork, but their library waits for them: from then on we start our own.
bool forked = false;
const bool noticed = pthread_atfork(nullptr, nullptr, [] { forked = true; }) == 0;

Threads* threads() {
#ifdef __SANITIZE_THREAD__  // which does not see the barriers of OpenMP
  return started;
#else
  return GOMP_parallel && omp_get_thread_num && omp_get_num_threads && noticed && !forked ? openmp : started;
#endif
}

}  // namespace

void parallel_ranges(Index n_threads, Index count, Index grain, void (*body)(void*, Index, Index), void* closure) {
  const Index blocks = (count + grain - 1) / grain;
  const Index workers = std::clamp<Index>(n_threads, 1, std::max<Index>(blocks, 1));
  if (workers == 1) {
    if (count > 0) body(closure, 0, count);
    return;
  }
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
  threads()(n_threads, workers, [](const void* f, Index worker) { (*static_cast<decltype(run)*>(f))(worker); }, &run);
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
