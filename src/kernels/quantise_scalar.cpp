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

// Group `at`, counted over all rows: codes = nearest_even(x / scale), zeros where scale is 0; x denormal
// counts as 0; and the sums of codes.
void quantise_group(const float* x, float scale, const QuantRows& out, std::size_t at) {
  std::int32_t rounded[kGroup] = {};
  if (scale > 0) {
    for (int i = 0; i < kGroup; ++i) {
      rounded[i] = std::bit_cast<std::int32_t>(x[i] / scale + kRounder) - std::bit_cast<std::int32_t>(kRounder);
    }
  }
  std::int32_t first = 0;
  std::int32_t second = 0;
  for (int i = 0; i < kGroup / 2; ++i) first += rounded[i];
  for (int i = kGroup / 2; i < kGroup; ++i) second += rounded[i];
  out.total[at] = static_cast<float>(first + second);
  if (out.codes16 == nullptr) {
    for (std::size_t i = 0; i < kGroup; ++i) out.codes[at * kGroup + i] = static_cast<std::int8_t>(rounded[i]);
    out.sum[at] = static_cast<std::int32_t>((static_cast<std::uint32_t>(first) & 0xffff) |
                                            static_cast<std::uint32_t>(second) << 16);
    return;
  }
  for (std::size_t i = 0; i < kGroup; i += 4) {
    std::int16_t* codes = out.codes16 + at * kGroup + i;
    const int order[4] = {0, 2, 1, 3};
    for (std::size_t j = 0; j < 4; ++j) codes[j] = static_cast<std::int16_t>(rounded[i + order[j]]);
  }
  out.sum[2 * at] = first + second;
  out.sum[2 * at + 1] = first;
}

// A row that is not finite.
void clear_row(const QuantRows& out, std::size_t at) {
  const auto k = static_cast<std::size_t>(out.k);
  const std::size_t groups = k / kGroup;
  const std::size_t wide = out.codes16 != nullptr ? 2 : 1;
  if (out.codes16 != nullptr) std::memset(out.codes16 + at * kGroup, 0, k * sizeof(std::int16_t));
  if (out.codes != nullptr) std::memset(out.codes + at * kGroup, 0, k);
  std::memset(out.scale + at, 0, groups * sizeof(float));
  std::memset(out.total + at, 0, groups * sizeof(float));
  std::memset(out.sum + wide * at, 0, wide * groups * sizeof(std::int32_t));
}

}  // namespace

// No code needs clamping: scale is rounded by at most 2^-24 of itself, so |x / scale| < most + 0.5.
bool quantise(const float* x, int row, const QuantRows& out) {
  const int groups = out.k / kGroup;
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(groups);
  const float most = out.codes16 != nullptr ? 32639.0F : 127.0F;
  std::uint32_t largest = 0;
  for (int g = 0; g < groups; ++g) {
    // Magnitudes order like integers; NaN and infinity are the largest.
    std::uint32_t amax = 0;
    for (int i = 0; i < kGroup; ++i) {
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[g * kGroup + i]) & kMagnitude;
      amax = bits > amax ? bits : amax;
    }
    largest = amax > largest ? amax : largest;
    float scale = std::bit_cast<float>(amax) / most;
    if (amax >= kInfinity || scale < kSmallestNormal) scale = 0;
    out.scale[at + static_cast<std::size_t>(g)] = scale;
    quantise_group(x + g * kGroup, scale, out, at + static_cast<std::size_t>(g));
  }
  if (largest < kInfinity) return true;
  clear_row(out, at);
  return false;
}

}  // namespace dalsegno::scalar
