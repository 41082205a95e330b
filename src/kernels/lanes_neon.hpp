#pragma once

#include <arm_neon.h>

#include <cstdint>

// What the NEON level's files share. Internal linkage: a baseline caller must never be linked to this code.
namespace dalsegno::neon {
namespace {

inline constexpr int kLanes = 16;  // virtual lanes, four vectors
inline constexpr int kVector = 4;
inline constexpr float kMinusInfinity = -__builtin_inff();

inline uint32x4_t bits(float32x4_t x) {
  return vreinterpretq_u32_f32(x);
}
inline float32x4_t floats(uint32x4_t x) {
  return vreinterpretq_f32_u32(x);
}

// The contract decides "below 2^-126" after rounding, FPCR.FZ before it: a product or fma whose exact value lies in
// [2^-126 - 2^-151, 2^-126) must be 2^-126, but the instruction gives 0. (A sum of two f32 is a multiple of 2^-149 and
// a quotient of two at least 2^-24 of itself away from a power of two, so neither lies there.) Two ways to multiply:
//   Quick  the instructions. Right unless a result was flushed, which FPSR tells: see underflowed().
//   Exact  repairs each result. Times 2^64 nothing that matters is flushed, so there the rounding shows.
struct Quick {
  static constexpr bool kMustAsk = true;
  static float32x4_t mul(float32x4_t a, float32x4_t b) { return vmulq_f32(a, b); }
  static float32x4_t fma(float32x4_t acc, float32x4_t a, float32x4_t b) { return vfmaq_f32(acc, a, b); }
  template <int kLane>
  static float32x4_t fma_lane(float32x4_t acc, float32x4_t a, float32x4_t b) {
    return vfmaq_laneq_f32(acc, a, b, kLane);
  }
};
struct Exact {
  static constexpr bool kMustAsk = false;
  static float32x4_t repair(float32x4_t result, float32x4_t times_2_64) {
    const uint32x4_t edge = vceqq_f32(vabsq_f32(times_2_64), vdupq_n_f32(0x1p-62F));
    const uint32x4_t flushed = vandq_u32(edge, vceqzq_f32(result));
    return vbslq_f32(flushed, vmulq_n_f32(times_2_64, 0x1p-64F), result);
  }
  static float32x4_t mul(float32x4_t a, float32x4_t b) {
    return repair(vmulq_f32(a, b), vmulq_f32(vmulq_n_f32(a, 0x1p64F), b));
  }
  static float32x4_t fma(float32x4_t acc, float32x4_t a, float32x4_t b) {
    return repair(vfmaq_f32(acc, a, b), vfmaq_f32(vmulq_n_f32(acc, 0x1p64F), vmulq_n_f32(a, 0x1p64F), b));
  }
  template <int kLane>
  static float32x4_t fma_lane(float32x4_t acc, float32x4_t a, float32x4_t b) {
    return fma(acc, a, vdupq_laneq_f32(b, kLane));
  }
};

template <class Maths>
inline float mul(float a, float b) {
  return vgetq_lane_f32(Maths::mul(vdupq_n_f32(a), vdupq_n_f32(b)), 0);
}
template <class Maths>
inline float fma(float acc, float a, float b) {
  return vgetq_lane_f32(Maths::fma(vdupq_n_f32(acc), vdupq_n_f32(a), vdupq_n_f32(b)), 0);
}

// Clears the cumulative flags. What is read from memory from here on is not used in arithmetic before.
inline void forget_underflow() {
  asm volatile("msr fpsr, xzr" ::: "memory");
}
// True if a result was flushed since. Asks about what is in memory; a value in a register must have been settled().
inline bool underflowed() {
  std::uint64_t flags;
  asm volatile("mrs %0, fpsr" : "=r"(flags)::"memory");
  return (flags & 8) != 0;
}
inline void settle(float32x4_t& value) {
  asm volatile("" : "+w"(value)::"memory");
}

// As scalar::exp_negative, lane by lane. What is below -87 is left out beforehand: its power of two would be garbage,
// whose product could underflow. No product here can come out as 2^-126 by rounding and matter.
inline float32x4_t exp_negative(float32x4_t given) {
  const float32x4_t to_integer = vdupq_n_f32(12582912.0F);
  const uint32x4_t live = vmvnq_u32(vcltq_f32(given, vdupq_n_f32(-87.0F)));
  const float32x4_t x = floats(vandq_u32(bits(given), live));
  const float32x4_t shifted = vaddq_f32(vmulq_n_f32(x, 1.44269504F), to_integer);
  const float32x4_t n = vsubq_f32(shifted, to_integer);
  const float32x4_t high = vfmaq_f32(x, n, vdupq_n_f32(-0.693359375F));
  const float32x4_t r = vfmaq_f32(high, n, vdupq_n_f32(2.12194440e-4F));
  float32x4_t p = vdupq_n_f32(1.9875691500e-4F);
  p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3F), p, r);
  p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3F), p, r);
  p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2F), p, r);
  p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1F), p, r);
  p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1F), p, r);
  p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0F));
  const uint32x4_t power = vshlq_n_u32(vaddq_u32(bits(shifted), vdupq_n_u32(127)), 23);
  return floats(vandq_u32(bits(vmulq_f32(p, floats(power))), live));
}

inline float exp_negative(float x) {
  return vgetq_lane_f32(exp_negative(vdupq_n_f32(x)), 0);
}

// 16 lanes by halves 8, 4, 2, 1.
inline float fold_add(const float32x4_t (&lanes)[4]) {
  const float32x4_t four = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

// The first n of 4 lanes, all bits of a lane set.
inline uint32x4_t first(int n) {
  const int32x4_t index = {0, 1, 2, 3};
  return vcltq_s32(index, vdupq_n_s32(n));
}

// As scalar::to_bf16, in the upper half of each lane; the lower half is zero.
inline uint32x4_t round_to_bf16(float32x4_t x) {
  const uint32x4_t value = bits(x);
  const uint32x4_t magnitude = vandq_u32(value, vdupq_n_u32(0x7fffffff));
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(value, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(vaddq_u32(value, vdupq_n_u32(0x7fff)), odd);
  const uint32x4_t quiet = vorrq_u32(value, vdupq_n_u32(0x400000));
  const uint32x4_t sign = vandq_u32(value, vdupq_n_u32(0x80000000));
  const uint32x4_t nan = vcgtq_u32(magnitude, vdupq_n_u32(0x7f800000));
  const uint32x4_t denormal = vcltq_u32(magnitude, vdupq_n_u32(0x00800000));
  const uint32x4_t chosen = vbslq_u32(denormal, sign, vbslq_u32(nan, quiet, rounded));
  return vandq_u32(chosen, vdupq_n_u32(0xffff0000));
}

}  // namespace
}  // namespace dalsegno::neon
