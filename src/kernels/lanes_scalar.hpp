#pragma once

#include <cstdint>
#include <cstring>

// What the scalar level's files share, and what other levels must reproduce bit for bit.
// Internal linkage, so that no level's code can be linked into another's.
namespace dalsegno::scalar {
namespace {

inline constexpr int kLanes = 16;  // virtual lanes of every reduction, whatever the CPU's width
inline constexpr float kMinusInfinity = -__builtin_inff();

inline float as_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline std::uint32_t as_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Multiplication under the contract's flush, which decides "below 2^-126" after rounding. x86 does so. ARM decides
// before it: what lies in [2^-126 - 2^-151, 2^-126) comes out as 0 and is put right. Times 2^64 it is not flushed, so
// there the rounding shows. (Sums and quotients of f32 never lie in that interval.)
#if defined(__aarch64__)
inline float repair(float result, float times_2_64) {
  const bool flushed = result == 0.0F && __builtin_fabsf(times_2_64) == 0x1p-62F;
  return flushed ? times_2_64 * 0x1p-64F : result;
}
inline float mul(float a, float b) {
  return repair(a * b, a * 0x1p64F * b);
}
inline float fma(float a, float b, float c) {
  return repair(__builtin_fmaf(a, b, c), __builtin_fmaf(a * 0x1p64F, b, c * 0x1p64F));
}
// To float in one rounding. Requires: a sum as in the bf16 chain, whose 53 bits are exact next to 2^-126.
inline float narrow(double value) {
  const auto result = static_cast<float>(value);
  const bool flushed = result == 0.0F && __builtin_fabs(value) >= 0x1p-126 - 0x1p-151;
  return flushed ? __builtin_copysignf(0x1p-126F, result) : result;
}
#else
inline float mul(float a, float b) {
  return a * b;
}
inline float fma(float a, float b, float c) {
  return __builtin_fmaf(a, b, c);
}
inline float narrow(double value) {
  return static_cast<float>(value);
}
#endif

// Nearest even; denormals become a signed zero, NaN a quiet NaN, overflow infinity.
inline std::uint16_t to_bf16(float value) {
  const std::uint32_t bits = as_bits(value);
  const std::uint32_t exponent = bits & 0x7f800000;
  if (exponent == 0) return static_cast<std::uint16_t>((bits >> 16) & 0x8000);
  if (exponent == 0x7f800000 && (bits & 0x7fffff) != 0) return static_cast<std::uint16_t>((bits >> 16) | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline float from_bf16(std::uint16_t value) {
  return as_float(static_cast<std::uint32_t>(value) << 16);
}

// exp(x) for x <= 0: exactly 1 at +-0, exactly +0 below -87 (so that no result is a denormal), NaN for NaN.
// fma is std::fma in the scalar level and its instruction elsewhere. No product can be flushed and matter, so the
// plain operations do.
inline float exp_negative(float x) {
  constexpr float kToInteger = 12582912.0F;  // 1.5 * 2^23: the sum's low bits hold the nearest integer, ties to even
  if (x < -87.0F) return 0.0F;
  const float shifted = x * 1.44269504F + kToInteger;
  const float n = shifted - kToInteger;
  const float r = __builtin_fmaf(n, 2.12194440e-4F, __builtin_fmaf(n, -0.693359375F, x));
  float p = 1.9875691500e-4F;
  p = __builtin_fmaf(p, r, 1.3981999507e-3F);
  p = __builtin_fmaf(p, r, 8.3334519073e-3F);
  p = __builtin_fmaf(p, r, 4.1665795894e-2F);
  p = __builtin_fmaf(p, r, 1.6666665459e-1F);
  p = __builtin_fmaf(p, r, 5.0000001201e-1F);
  p = __builtin_fmaf(p, r * r, r) + 1.0F;
  return p * as_float((as_bits(shifted) + 127) << 23);
}

// Sum of the 16 lanes by halves: 8, 4, 2, 1. Overwrites them.
inline float fold(float (&lanes)[kLanes]) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; j++) lanes[j] = lanes[j] + lanes[j + half];
  }
  return lanes[0];
}

}  // namespace
}  // namespace dalsegno::scalar
