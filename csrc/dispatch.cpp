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

const Kernels& choose() {
  const Candidate candidates[] = {
#ifdef __x86_64__
      {avx512::table, __builtin_cpu_supports("x86-64-v4") != 0},
      {avx2::table, __builtin_cpu_supports("x86-64-v3") != 0},
#endif
      {baseline::table, true},
  };
  const char* wanted = std::getenv("VLAE_FAST_ISA");
  for (const Candidate& candidate : candidates)
    if (wanted && *wanted ? std::string(wanted) == candidate.table.isa : candidate.runs_here) {
      if (!candidate.runs_here)
        throw std::runtime_error(std::string("VLAE_FAST_ISA: this processor does not run ") + wanted);
      return candidate.table;
    }
  std::string names;
  for (const Candidate& candidate : candidates) names += std::string(" ") + candidate.table.isa;
  throw std::runtime_error(std::string("VLAE_FAST_ISA: unknown name '") + wanted + "', known:" + names);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace vlae
