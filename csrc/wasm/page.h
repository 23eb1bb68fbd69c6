// What the sources of the page's module share.
#pragma once
#include "vlae.h"

namespace vlae {

// Memory that nobody gives back, aligned to 64 bytes; scratch memory lies behind it.
float* claim(Index floats);

namespace VLAE_ISA {
// Words start..start+normals+uniforms-1 of an item: standard normals, then uniform numbers in [0, 1).
void noise(std::uint64_t seed, std::uint64_t stream, std::uint64_t item, Index start, Index normals, Index uniforms,
           float* normal, float* uniform);
}  // namespace VLAE_ISA

}  // namespace vlae
