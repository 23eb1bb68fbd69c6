// Every function of vlae_cuda.h under its own name; addresses are those of the device.
#include "bindings/arguments.h"
#include "vlae_cuda.h"

namespace nb = nanobind;

namespace {

template <class Result, class... A>
void define(nb::module_& m, const char* name, Result (*function)(A...)) {
  vlae::bindings::define<A...>(m, name, function);
}

}  // namespace

NB_MODULE(_cuda, m) {
#define VLAE_DEFINE(name)             \
  define(m, #name, vlae::cuda::name); \
  define(m, #name "_scratch", vlae::cuda::name##_scratch);
  VLAE_CUDA_FUNCTIONS(VLAE_DEFINE)
#undef VLAE_DEFINE
}
