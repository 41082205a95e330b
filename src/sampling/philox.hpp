#pragma once

#include <array>
#include <cstdint>

namespace dalsegno {

// Philox4x32 with 10 rounds (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011): a keyed bijection of 128 bits. It has no state, so draw n needs no draw n - 1.
[[nodiscard]] std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key);

// A uniform number in [0, 1), a multiple of 2^-53. key = seed; counter = (position, 0, stream).
[[nodiscard]] double uniform(std::uint64_t seed, std::uint64_t stream, std::uint32_t position);

}  // namespace dalsegno
