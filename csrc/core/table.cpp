// The functions of one instruction set; compiled once for each (VLAE_ISA is its name).
#include "vlae.h"

#define VLAE_STRING_(name) #name
#define VLAE_STRING(name) VLAE_STRING_(name)

namespace vlae::VLAE_ISA {

extern const Kernels table;
const Kernels table = {.isa = VLAE_STRING(VLAE_ISA),
#define VLAE_ENTRY(Type, name) .name = name,
                       VLAE_KERNELS(VLAE_ENTRY)
#undef VLAE_ENTRY
};

}  // namespace vlae::VLAE_ISA
