#pragma once

#include <bit>
#include <cstdint>

namespace dalsegno {

[[nodiscard]] constexpr bool is_finite_half(std::uint16_t half) {
  return (half & 0x7c00) != 0x7c00;
}

// Exact for every f16, denormals included, whatever the floating-point state: no f32 denormal
// takes part in the arithmetic. A NaN stays one.
[[nodiscard]] inline float half_to_float(std::uint16_t half) {
  constexpr std::uint32_t rebias = (127U - 15U) << 23;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
  std::uint32_t bits = static_cast<std::uint32_t>(half & 0x7fff) << 13;
  const std::uint32_t exponent = bits & 0x0f800000;
  bits += exponent == 0x0f800000 ? 2 * rebias : rebias;
  if (exponent == 0) {
    // The mantissa beside the exponent of the smallest normal f16: taking that away leaves its value.
    constexpr std::uint32_t smallest = rebias + (1U << 23);
    const float value = std::bit_cast<float>(bits + (1U << 23)) - std::bit_cast<float>(smallest);
    bits = std::bit_cast<std::uint32_t>(value);
  }
  return std::bit_cast<float>(bits | sign);
}

}  // namespace dalsegno
