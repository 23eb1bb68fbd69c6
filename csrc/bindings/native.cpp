// Every function of vlae.h under its own name.
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings/arguments.h"

namespace nb = nanobind;
using vlae::Kernels;

namespace {

template <class... A>
void define(nb::module_& m, const char* name, void (*Kernels::*kernel)(A...)) {
  vlae::bindings::define<A...>(m, name, [kernel](A... arguments) {
    const auto function = vlae::kernels().*kernel;
    if (!function) throw std::logic_error("a function that is not compiled in plain arithmetic");
    function(arguments...);
  });
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("isa", [] { return vlae::kernels().isa; });
  m.def("usable_isas", [] {
    std::vector<const char*> names;
    for (vlae::Index i = 0; const Kernels* table = vlae::usable(i); ++i) names.push_back(table->isa);
    return names;
  });
  m.def("use_isa", [](vlae::Index i) {
    const Kernels* table = i < 0 ? nullptr : vlae::usable(i);
    if (!table) throw std::out_of_range("use_isa: a place in usable_isas wanted");
    vlae::use(*table);
  });
  m.def("use_plain", vlae::use_plain);
  vlae::bindings::define<vlae::Index, vlae::Index, float, const float*, const float*, const vlae::Coders&, bool,
                         float*>(m, "normal_code", vlae::normal_code);
#define VLAE_DEFINE(Type, name) define(m, #name, &Kernels::name);
  VLAE_KERNELS(VLAE_DEFINE)
#undef VLAE_DEFINE
}
