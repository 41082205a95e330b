#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/levels.hpp"

namespace dalsegno::scalar {
namespace {

constexpr std::uint32_t kMagnitude = 0x7fffffff;
constexpr std::uint32_t kInfinity = 0x7f800000;
constexpr float kSmallestNormal = 0x1p-126F;
// Adding it leaves no fraction bits: the sum is rounded to an integer, nearest even, for |x| < 2^22.
constexpr float kRounder = 0x1.8p23F;

// codes = nearest_even(x / scale), zeros where scale is 0; x denormal counts as 0.
// Returns the sums of the two halves of 16, as int16 in the low and high half of a word.
std::uint32_t quantise_group(const float* x, float scale, std::int8_t* codes) {
  std::int32_t rounded[kGroup] = {};
  if (scale > 0) {
    for (int i = 0; i < kGroup; ++i) {
      rounded[i] = std::bit_cast<std::int32_t>(x[i] / scale + kRounder) - std::bit_cast<std::int32_t>(kRounder);
    }
  }
  std::int32_t first = 0;
  std::int32_t second = 0;
  for (int i = 0; i < kGroup; ++i) codes[i] = static_cast<std::int8_t>(rounded[i]);
  for (int i = 0; i < kGroup / 2; ++i) first += rounded[i];
  for (int i = kGroup / 2; i < kGroup; ++i) second += rounded[i];
  return (static_cast<std::uint32_t>(first) & 0xffff) | static_cast<std::uint32_t>(second) << 16;
}

}  // namespace

// No code needs clamping: scale is rounded by at most 2^-24 of itself, so |x / scale| < 127.5.
bool quantise(const float* x, int row, const QuantRows& out) {
  const int groups = out.k / kGroup;
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(groups);
  std::int8_t* codes = out.codes + at * kGroup;
  std::uint32_t largest = 0;
  for (int g = 0; g < groups; ++g) {
    // Magnitudes order like integers; NaN and infinity are the largest.
    std::uint32_t amax = 0;
    for (int i = 0; i < kGroup; ++i) {
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[g * kGroup + i]) & kMagnitude;
      amax = bits > amax ? bits : amax;
    }
    largest = amax > largest ? amax : largest;
    float scale = std::bit_cast<float>(amax) / 127.0F;
    if (amax >= kInfinity || scale < kSmallestNormal) scale = 0;
    out.scale[at + static_cast<std::size_t>(g)] = scale;
    out.sum[at + static_cast<std::size_t>(g)] =
        static_cast<std::int32_t>(quantise_group(x + g * kGroup, scale, codes + g * kGroup));
  }
  if (largest < kInfinity) return true;
  std::memset(codes, 0, static_cast<std::size_t>(out.k));
  std::memset(out.scale + at, 0, static_cast<std::size_t>(groups) * sizeof(float));
  std::memset(out.sum + at, 0, static_cast<std::size_t>(groups) * sizeof(std::int32_t));
  return false;
}

}  // namespace dalsegno::scalar
