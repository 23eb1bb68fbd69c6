// Picks the instruction set once, at load.
#include <cstdlib>
#include <stdexcept>
#include <string>

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

// Best first.
const Candidate candidates[] = {
#ifdef __x86_64__
    {avx512::table, __builtin_cpu_supports("x86-64-v4") != 0},
    {avx2::table, __builtin_cpu_supports("x86-64-v3") != 0},
#endif
    {baseline::table, true},
};

const Kernels& choose() {
  const char* wanted = std::getenv("VLAE_FAST_ISA");
  if (!wanted || !*wanted) return *usable(0);
  for (Index i = 0; const Kernels* table = usable(i); ++i)
    if (std::string(wanted) == table->isa) return *table;
  throw std::runtime_error(std::string("VLAE_FAST_ISA: no instruction set of this processor is known as '") + wanted +
                           "'");
}

}  // namespace

const Kernels* usable(Index i) {
  for (const Candidate& candidate : candidates)
    if (candidate.runs_here && i-- == 0) return &candidate.table;
  return nullptr;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace vlae
