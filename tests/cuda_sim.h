// Runs CUDA kernels on the CPU, to test their logic without a GPU: g++ -x c++ -include tests/cuda_sim.h kernel.cu
//
// Blocks run one after another, the threads of a block as fibers that give way at barriers alone.
// CUDA_SIM_ORDER=rising, falling or shuffled is the order of blocks and threads. Shared memory is full of NaN at first,
// and a block that writes behind what its launch asked for is an error, as is a barrier that not all threads reach.
// Built with -fsanitize=thread every fiber counts as a thread of its own and barriers alone order them, so that a
// missing one is found; CUDA_SIM_SKIP=made.cu:123 makes the barrier of that line go missing. CUDA_SIM_MULTIPROCESSORS
// and CUDA_SIM_SHARED_BYTES (a block's) stand for another chip than an H200. Launches are cudaLaunchKernelEx, as C++
// has no
// <<<>>>.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ thread_local

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct int2 {
  int x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

using cudaError_t = int;
using cudaStream_t = struct CUstream_st*;
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaMemcpyDeviceToDevice = 3 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}

namespace cuda_sim {

inline int number_from(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text ? std::atoi(text) : otherwise;
}

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "cuda_sim: %s\n", why);
  std::abort();
}

constexpr std::size_t shared_limit = 227 << 10;  // an H200's
constexpr int warp_size = 32;

#ifdef __SANITIZE_THREAD__
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#define CUDA_SIM_UNSEEN __attribute__((no_sanitize("thread"), noinline))
#else
inline void* __tsan_get_current_fiber() { return nullptr; }
inline void* __tsan_create_fiber(unsigned) { return nullptr; }
inline void __tsan_switch_to_fiber(void*, unsigned) {}
inline void __tsan_acquire(void*) {}
inline void __tsan_release(void*) {}
#define CUDA_SIM_UNSEEN
#endif
constexpr unsigned without_order = 1;  // a switch of fibers is no synchronisation

enum State { running, at_block_barrier, at_warp_barrier, done };

struct Context {
  ucontext_t whole;
  jmp_buf registers;
  bool started;
};

struct Copy {
  void* to;
  const void* from;
};

struct Fiber {
  Context context;
  void *stack, *tsan;
  State state;
  unsigned barriers[2];      // passed so far: of the block, of the warp
  std::vector<Copy> copies;  // begun and not waited for
};

// The block at work. Its members are reached from all fibers, unseen by ThreadSanitizer.
struct Block {
  Fiber* fibers;
  int threads, current;
  Context scheduler;
  void* scheduler_tsan;
  void (*body)(void*);
  void* argument;
  // Two of each, used in turn: what one barrier orders must not reach those who have yet to leave the one before.
  char begun, ended, block_order[2], warp_order[32][2];
  double exchanged[32][warp_size];
};
inline Block block;

}  // namespace cuda_sim

inline dim3 threadIdx, blockIdx, blockDim, gridDim;
// What kernels declare as `extern __shared__ float4 shared_memory[]` in this namespace.
namespace vlae::cuda {
inline thread_local float4 shared_memory[cuda_sim::shared_limit / sizeof(float4) + 1];
}

namespace cuda_sim {

// From one context into another: setjmp where it can be had, as swapcontext calls the kernel; ThreadSanitizer cannot
// bear it.
CUDA_SIM_UNSEEN inline void switch_context(Context& from, Context& to, void* tsan) {
  __tsan_switch_to_fiber(tsan, without_order);
#ifdef __SANITIZE_THREAD__
  swapcontext(&from.whole, &to.whole);
#else
  if (_setjmp(from.registers)) return;
  if (to.started) _longjmp(to.registers, 1);
  to.started = true;
  setcontext(&to.whole);
#endif
}

CUDA_SIM_UNSEEN inline void give_way(State state) {
  Fiber& fiber = block.fibers[block.current];
  fiber.state = state;
  switch_context(fiber.context, block.scheduler, block.scheduler_tsan);
}

CUDA_SIM_UNSEEN inline void wait_at(State state, char (&order)[2]) {
  unsigned& passed = block.fibers[block.current].barriers[state == at_warp_barrier];
  char* const turn = &order[passed++ % 2];
  __tsan_release(turn);
  give_way(state);
  __tsan_acquire(turn);
}

CUDA_SIM_UNSEEN inline bool skipped(const char* file, int line) {
  static const char* const site = std::getenv("CUDA_SIM_SKIP");
  if (!site) return false;
  const char* slash = std::strrchr(file, '/');
  return std::string(slash ? slash + 1 : file) + ":" + std::to_string(line) == site;
}

CUDA_SIM_UNSEEN inline void sync_block(const char* file, int line) {
  if (!skipped(file, line)) wait_at(at_block_barrier, block.block_order);
}

CUDA_SIM_UNSEEN inline void sync_warp(const char* file, int line) {
  if (!skipped(file, line)) wait_at(at_warp_barrier, block.warp_order[block.current / warp_size]);
}

template <class T>
CUDA_SIM_UNSEEN T shuffle(T value, int from) {
  const int warp = block.current / warp_size, lane = block.current % warp_size;
  block.exchanged[warp][lane] = static_cast<double>(value);
  wait_at(at_warp_barrier, block.warp_order[warp]);
  const T other = static_cast<T>(block.exchanged[warp][from]);
  wait_at(at_warp_barrier, block.warp_order[warp]);
  return other;
}

__attribute__((noinline)) inline void copy16(const Copy& copy) {
  *static_cast<float4*>(copy.to) = *static_cast<const float4*>(copy.from);
}

CUDA_SIM_UNSEEN inline void begin_copy(void* to, const void* from, std::size_t bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from);
  if (bytes != 16 || address % 16) fail("only copies of 16 bytes, aligned, are known");
  block.fibers[block.current].copies.push_back({to, from});
}

CUDA_SIM_UNSEEN inline void wait_for_copies() {
  std::vector<Copy>& copies = block.fibers[block.current].copies;
  for (const Copy& copy : copies) copy16(copy);
  copies.clear();
}

CUDA_SIM_UNSEEN inline void fiber_main() {
  __tsan_acquire(&block.begun);
  block.body(block.argument);
  __tsan_release(&block.ended);
  give_way(done);
}

CUDA_SIM_UNSEEN inline void run_fiber(int thread) {
  block.current = thread;
  threadIdx = dim3(static_cast<unsigned>(thread));
  switch_context(block.scheduler, block.fibers[thread].context, block.fibers[thread].tsan);
}

// Sets the threads first..last running if all of them wait at the same kind of barrier.
CUDA_SIM_UNSEEN inline bool release(int first, int last, State barrier) {
  for (int i = first; i < last; ++i)
    if (block.fibers[i].state != barrier) return false;
  for (int i = first; i < last; ++i) block.fibers[i].state = running;
  return true;
}

// The numbers 0..count in the order asked for.
class Order {
 public:
  CUDA_SIM_UNSEEN explicit Order(int count) : items_(count) {
    for (int i = 0; i < count; ++i) items_[i] = i;
    const char* name = std::getenv("CUDA_SIM_ORDER");
    shuffled_ = name && std::strcmp(name, "shuffled") == 0;
    if (name && std::strcmp(name, "falling") == 0)
      for (int i = 0; i < count; ++i) items_[i] = count - 1 - i;
  }
  // Shuffles anew where that is asked for.
  CUDA_SIM_UNSEEN const std::vector<int>& next() {
    if (shuffled_)
      for (std::size_t i = items_.size(); i > 1; --i) {
        random_ = random_ * 6364136223846793005u + 1442695040888963407u;
        std::swap(items_[i - 1], items_[(random_ >> 33) % i]);
      }
    return items_;
  }

 private:
  std::vector<int> items_;
  bool shuffled_;
  std::uint64_t random_ = 1;
};

CUDA_SIM_UNSEEN inline void run_block(int threads, Order& order) {
  constexpr std::size_t stack_size = 128 << 10;
  static std::vector<Fiber> fibers;
  while (static_cast<int>(fibers.size()) < threads)
    fibers.push_back({.stack = std::malloc(stack_size), .tsan = __tsan_create_fiber(0)});
  block.fibers = fibers.data();
  block.threads = threads;
  block.scheduler_tsan = __tsan_get_current_fiber();
  block.scheduler.started = true;
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    ucontext_t& context = fiber.context.whole;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack;
    context.uc_stack.ss_size = stack_size;
    context.uc_link = nullptr;
    makecontext(&context, fiber_main, 0);
    fiber.context.started = false;
    fiber.state = running;
    fiber.barriers[0] = fiber.barriers[1] = 0;
  }
  __tsan_release(&block.begun);
  for (bool all_done = false; !all_done;) {
    bool moved = false;
    for (int i : order.next())
      if (fibers[i].state == running) run_fiber(i), moved = true;
    for (int first = 0; first < threads; first += warp_size)
      moved |= release(first, min(first + warp_size, threads), at_warp_barrier);
    moved |= release(0, threads, at_block_barrier);
    all_done = true;
    for (int i = 0; i < threads; ++i) all_done &= fibers[i].state == done;
    if (!moved && !all_done) fail("a barrier that not all threads reach");
  }
  __tsan_acquire(&block.ended);
}

}  // namespace cuda_sim

#define __syncthreads() cuda_sim::sync_block(__FILE__, __LINE__)
#define __syncwarp() cuda_sim::sync_warp(__FILE__, __LINE__)
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return cuda_sim::shuffle(value, static_cast<int>(threadIdx.x % cuda_sim::warp_size) ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return cuda_sim::shuffle(value, lane);
}
inline void __pipeline_memcpy_async(void* to, const void* from, std::size_t bytes) {
  cuda_sim::begin_copy(to, from, bytes);
}
inline void __pipeline_commit() {}
inline void __pipeline_wait_prior(int) { cuda_sim::wait_for_copies(); }
template <class T>
T __ldg(const T* p) {
  return *p;
}

// --- The runtime ---

inline const char* cudaGetErrorName(cudaError_t) { return "cudaErrorInvalidValue"; }
inline const char* cudaGetErrorString(cudaError_t) { return "invalid argument"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount
               ? cuda_sim::number_from("CUDA_SIM_MULTIPROCESSORS", 132)
               : cuda_sim::number_from("CUDA_SIM_SHARED_BYTES", static_cast<int>(cuda_sim::shared_limit));
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= static_cast<int>(cuda_sim::shared_limit) ? cudaSuccess : cudaErrorInvalidValue;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, int, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

#ifdef CUDA_SIM_PTX
// Launches go to tests/ptx/cuda.py, which runs what nvcc compiled: the kernel by its place in this library, and its
// parameters as a GPU gets them.
#include <dlfcn.h>
extern "C" {
__attribute__((visibility("default"))) inline int (*cuda_sim_launch)(std::size_t kernel, unsigned blocks,
                                                                     unsigned threads, std::size_t shared_bytes,
                                                                     const void* parameters,
                                                                     std::size_t parameter_bytes) = nullptr;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  if (config->dynamicSmemBytes > cuda_sim::shared_limit) return cudaErrorInvalidValue;
  std::vector<unsigned char> packed;
  auto add = [&](const auto& value) {
    const std::size_t place =
        (packed.size() + alignof(decltype(value)) - 1) / alignof(decltype(value)) * alignof(decltype(value));
    packed.resize(place + sizeof value);
    std::memcpy(packed.data() + place, &value, sizeof value);
  };
  (add(static_cast<Parameters>(arguments)), ...);
  Dl_info library;
  dladdr(reinterpret_cast<void*>(kernel), &library);
  const std::size_t place = reinterpret_cast<std::size_t>(kernel) - reinterpret_cast<std::size_t>(library.dli_fbase);
  return cuda_sim_launch(place, config->gridDim.x, config->blockDim.x, config->dynamicSmemBytes, packed.data(),
                         packed.size());
}
#else
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const unsigned threads = config->blockDim.x, blocks = config->gridDim.x;
  const std::size_t bytes = config->dynamicSmemBytes;
  if (threads == 0 || threads > 1024 || blocks == 0 || bytes > cuda_sim::shared_limit) return cudaErrorInvalidValue;
  if (std::getenv("CUDA_SIM_LOG")) std::fprintf(stderr, "launch %u %zu\n", threads, bytes);
  auto call = [&] { kernel(static_cast<Parameters>(arguments)...); };
  cuda_sim::block.body = [](void* p) { (*static_cast<decltype(call)*>(p))(); };
  cuda_sim::block.argument = &call;
  blockDim = config->blockDim;
  gridDim = config->gridDim;
  cuda_sim::Order block_order(static_cast<int>(blocks)), thread_order(static_cast<int>(threads));
  float* const shared = reinterpret_cast<float*>(vlae::cuda::shared_memory);
  constexpr std::size_t shared_floats = sizeof(vlae::cuda::shared_memory) / sizeof(float4) * 4;
  for (int i : block_order.next()) {
    for (std::size_t k = 0; k < shared_floats; ++k) shared[k] = NAN;
    blockIdx = dim3(static_cast<unsigned>(i));
    cuda_sim::run_block(static_cast<int>(threads), thread_order);
    for (std::size_t k = bytes / sizeof(float); k < shared_floats; ++k)
      if (!std::isnan(shared[k])) cuda_sim::fail("a write behind the launch's shared memory");
  }
  return cudaSuccess;
}
#endif
