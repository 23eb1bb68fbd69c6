// Picks the instruction set.
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <utility>

#include "vlae.h"

namespace vlae {

namespace baseline {
extern const Kernels table;
}
#ifdef __x86_64__
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

struct Candidate {
  const Kernels& table;
  bool runs_here;
};

#ifdef __x86_64__
// The parts of x86-64-v3 and -v4 that tell them from other processors (Clang knows no names for the whole).
bool runs_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}
bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// Best first.
const Candidate candidates[] = {
#ifdef __x86_64__
    {avx512::table, runs_avx512()},
    {avx2::table, runs_avx2()},
#endif
    {baseline::table, true},
};

const Kernels& choose() {
  const char* wanted = std::getenv("VLAE_FAST_ISA");
  if (!wanted || !*wanted) return *usable(0);
  std::string names;
  for (Index i = 0; const Kernels* table = usable(i); ++i) {
    if (std::string(wanted) == table->isa) return *table;
    names += (i == 0 ? "" : ", ") + std::string(table->isa);
  }
  throw std::runtime_error("VLAE_FAST_ISA: one of " + names + " (what this processor runs) wanted, got '" + wanted +
                           "'");
}

}  // namespace

const Kernels* usable(Index i) {
  for (const Candidate& candidate : candidates)
    if (candidate.runs_here && i-- == 0) return &candidate.table;
  return nullptr;
}

namespace {
std::atomic<const Kernels*>& in_use() {
  static std::atomic<const Kernels*> table = &choose();
  return table;
}
}  // namespace

namespace {
thread_local bool plain_here = false;
}

const Kernels& kernels() {
  const Kernels& table = *in_use().load(std::memory_order_relaxed);
  return plain_here ? *table.plain : table;
}

bool use_plain(bool plain) { return std::exchange(plain_here, plain); }

void use(const Kernels& table) { in_use().store(&table, std::memory_order_relaxed); }

}  // namespace vlae
