// The functions of one instruction set; compiled once for each (VLAE_ISA is its name), and once more in plain
// arithmetic (VLAE_PLAIN) where the instruction set has another.
#include "core/simd.h"
#include "vlae.h"

#define VLAE_STRING_(name) #name
#define VLAE_STRING(name) VLAE_STRING_(name)
#define VLAE_PLAIN_OF_(name) name##_plain
#define VLAE_PLAIN_OF(name) VLAE_PLAIN_OF_(name)

namespace vlae {

#ifdef VLAE_FUSED
namespace VLAE_PLAIN_OF(VLAE_ISA) {
extern const Kernels table;
}
#endif

namespace VLAE_ISA {

extern const Kernels table;
const Kernels table = {.isa = VLAE_STRING(VLAE_ISA),
#ifdef VLAE_FUSED
                       .plain = &VLAE_PLAIN_OF(VLAE_ISA)::table,
#else
                       .plain = &table,
#endif
#define VLAE_ENTRY(Type, name) .name = name,
#ifdef VLAE_PLAIN
                       VLAE_CODEC_KERNELS(VLAE_ENTRY)
#else
                       VLAE_KERNELS(VLAE_ENTRY)
#endif
#undef VLAE_ENTRY
};

}  // namespace VLAE_ISA
}  // namespace vlae
