// Memory and threads of WebAssembly, in place of parallel.cpp. There is one thread, and scratch memory is a stack, as
// those who own it die in the reverse of the order in which they were made.
#include "core/parallel.h"
#include "wasm/page.h"

extern "C" float __heap_base;  // where the linker puts the first byte that nobody uses

namespace vlae {

namespace {
constexpr std::uintptr_t alignment = 64, page = 65536;
std::uintptr_t top = reinterpret_cast<std::uintptr_t>(&__heap_base);
}  // namespace

void parallel_ranges(Index, Index count, Index, void (*body)(void*, Index, Index), void* closure) {
  if (count > 0) body(closure, 0, count);
}

float* claim(Index floats) {
  const std::uintptr_t begin = (top + alignment - 1) / alignment * alignment;
  const std::uint64_t end = begin + sizeof(float) * static_cast<std::uint64_t>(floats);
  const std::uint64_t pages = (end + page - 1) / page, there = __builtin_wasm_memory_size(0);
  if (pages >= page || (pages > there && __builtin_wasm_memory_grow(0, pages - there) == ~std::uintptr_t{0}))
    __builtin_trap();
  top = static_cast<std::uintptr_t>(end);
  return reinterpret_cast<float*>(begin);
}

Scratch::Scratch(Index floats) : data_(claim(floats)) {}
Scratch::~Scratch() { top = reinterpret_cast<std::uintptr_t>(data_); }

}  // namespace vlae
