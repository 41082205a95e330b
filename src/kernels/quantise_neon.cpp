#include <arm_neon.h>

#include <cstdint>

#include "kernels/levels.hpp"

namespace dalsegno::neon {
namespace {

constexpr std::uint32_t kInfinity = 0x7f800000;
constexpr float kSmallestNormal = 0x1p-126F;
constexpr int kVectors = kGroup / 4;

// Codes and sums of group `at`, counted over all rows; 0 <= scale, zeros where it is 0. Quotients that are flushed
// would be 0 anyway: codes need no more of the contract's flush than that.
template <bool Wide>
void quantise_group(const float32x4_t (&x)[kVectors], float scale, const QuantRows& out, std::size_t at) {
  int16x8_t q[kVectors / 2];  // eight consecutive k
  const float32x4_t s = vdupq_n_f32(scale);
  const auto code = [&](float32x4_t value) { return vmovn_s32(vcvtnq_s32_f32(vdivq_f32(value, s))); };
  for (int i = 0; i < kVectors / 2; ++i) {
    q[i] = scale > 0 ? vcombine_s16(code(x[2 * i]), code(x[2 * i + 1])) : vdupq_n_s16(0);
  }
  const std::int32_t first = vaddlvq_s16(q[0]) + vaddlvq_s16(q[1]);
  const std::int32_t second = vaddlvq_s16(q[2]) + vaddlvq_s16(q[3]);
  out.total[at] = static_cast<float>(first + second);
  if constexpr (Wide) {
    // k0 k1 k2 k3 -> k0 k2 k1 k3
    const uint8x16_t order = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
    for (int i = 0; i < kVectors / 2; ++i) {
      const int8x16_t ordered = vqtbl1q_s8(vreinterpretq_s8_s16(q[i]), order);
      vst1q_s16(out.codes16 + at * kGroup + 8 * i, vreinterpretq_s16_s8(ordered));
    }
    out.sum[2 * at] = first + second;
    out.sum[2 * at + 1] = first;
  } else {
    for (int i = 0; i < kVectors / 2; ++i) vst1_s8(out.codes + at * kGroup + 8 * i, vmovn_s16(q[i]));
    out.sum[at] = static_cast<std::int32_t>((static_cast<std::uint32_t>(first) & 0xffff) |
                                            static_cast<std::uint32_t>(second) << 16);
  }
}

template <bool Wide>
bool quantise_row(const float* x, int row, const QuantRows& out) {
  constexpr float kMost = Wide ? 32639.0F : 127.0F;
  constexpr std::size_t kWords = Wide ? 2 : 1;
  const int groups = out.k / kGroup;
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(groups);
  std::uint32_t largest = 0;
  for (int g = 0; g < groups; ++g, x += kGroup) {
    float32x4_t v[kVectors];
    uint32x4_t m = vdupq_n_u32(0);
    for (int i = 0; i < kVectors; ++i) {
      v[i] = vld1q_f32(x + 4 * i);
      m = vmaxq_u32(m, vandq_u32(vreinterpretq_u32_f32(v[i]), vdupq_n_u32(0x7fffffff)));
    }
    const std::uint32_t amax = vmaxvq_u32(m);
    largest = amax > largest ? amax : largest;
    float scale = vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(amax)), 0) / kMost;
    if (amax >= kInfinity || scale < kSmallestNormal) scale = 0;
    out.scale[at + static_cast<std::size_t>(g)] = scale;
    quantise_group<Wide>(v, scale, out, at + static_cast<std::size_t>(g));
  }
  if (largest < kInfinity) return true;
  if constexpr (Wide) __builtin_memset(out.codes16 + at * kGroup, 0, 2 * static_cast<std::size_t>(out.k));
  if constexpr (!Wide) __builtin_memset(out.codes + at * kGroup, 0, static_cast<std::size_t>(out.k));
  __builtin_memset(out.scale + at, 0, static_cast<std::size_t>(groups) * sizeof(float));
  __builtin_memset(out.total + at, 0, static_cast<std::size_t>(groups) * sizeof(float));
  __builtin_memset(out.sum + kWords * at, 0, kWords * static_cast<std::size_t>(groups) * sizeof(std::int32_t));
  return false;
}

}  // namespace

bool quantise(const float* x, int row, const QuantRows& out) {
  return out.codes16 != nullptr ? quantise_row<true>(x, row, out) : quantise_row<false>(x, row, out);
}

}  // namespace dalsegno::neon
