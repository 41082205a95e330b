#include "kernels/kv_codes.hpp"

#include "kernels/lanes_neon.hpp"
#include "kernels/levels.hpp"

namespace dalsegno::neon {
namespace {

// Nothing here needs Exact: products of a code and a bf16 scale are 0 or at least 2^-126, and sums with a bf16 minimum
// are multiples of 2^-133, so none lies next to 2^-126 and below.
struct Level {
  struct Values {
    float32x4_t at[kLanes / kVector];
  };
  template <class Body>
  static Values each(const Body& body) {
    return {{body(0), body(1), body(2), body(3)}};
  }
  static Values load(const float* x) {
    return each([&](int i) { return vld1q_f32(x + kVector * i); });
  }
  static void put(float* x, const Values& a) {
    for (int i = 0; i < kLanes / kVector; i++) vst1q_f32(x + kVector * i, a.at[i]);
  }
  static Values fill(float x) {
    return each([&](int) { return vdupq_n_f32(x); });
  }
  static Values add(const Values& a, const Values& b) {
    return each([&](int i) { return vaddq_f32(a.at[i], b.at[i]); });
  }
  static Values subtract(const Values& a, const Values& b) {
    return each([&](int i) { return vsubq_f32(a.at[i], b.at[i]); });
  }
  template <int kBy>
  static Values butterfly(const Values& a) {
    if constexpr (kBy >= kVector) {
      constexpr int kOther = kBy / kVector;
      return each([&](int i) {
        return (i & kOther) == 0 ? vaddq_f32(a.at[i], a.at[i ^ kOther]) : vsubq_f32(a.at[i ^ kOther], a.at[i]);
      });
    }
    const uint32x4_t upper = {0, kBy == 1 ? ~0U : 0U, kBy == 2 ? ~0U : 0U, ~0U};
    return each([&](int i) {
      const float32x4_t other = kBy == 1 ? vrev64q_f32(a.at[i]) : vextq_f32(a.at[i], a.at[i], 2);
      return vbslq_f32(upper, vsubq_f32(other, a.at[i]), vaddq_f32(a.at[i], other));
    });
  }
  static bool round(const float* x, float* out) {
    const uint32x4_t huge = vdupq_n_u32(0x7f000000);
    uint32x4_t bad = vdupq_n_u32(0);
    for (int i = 0; i < kLanes; i += kVector) {
      const uint32x4_t rounded = round_to_bf16(vld1q_f32(x + i));
      bad = vorrq_u32(bad, vceqq_u32(vandq_u32(rounded, huge), huge));
      vst1q_f32(out + i, floats(rounded));
    }
    return vmaxvq_u32(bad) == 0;
  }
  static Values magnitude(const Values& a) {
    return each([&](int i) { return vabsq_f32(a.at[i]); });
  }
  static Values largest(const Values& a, const Values& b) {
    return each([&](int i) { return vmaxq_f32(a.at[i], b.at[i]); });
  }
  static Values smallest(const Values& a, const Values& b) {
    return each([&](int i) { return vminq_f32(a.at[i], b.at[i]); });
  }
  static float fold_largest(const Values& a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.at[0], a.at[1]), vmaxq_f32(a.at[2], a.at[3])));
  }
  static float fold_smallest(const Values& a) {
    return vminvq_f32(vminq_f32(vminq_f32(a.at[0], a.at[1]), vminq_f32(a.at[2], a.at[3])));
  }
  static void codes(const Values& a, float minimum, float scale, std::uint8_t* out) {
    const auto steps = [&](int i) {
      const float32x4_t x = vdivq_f32(vsubq_f32(a.at[i], vdupq_n_f32(minimum)), vdupq_n_f32(scale));
      return vmovn_s32(vcvtnq_s32_f32(x));
    };
    const int8x8_t left = vmovn_s16(vcombine_s16(steps(0), steps(1)));
    const int8x8_t right = vmovn_s16(vcombine_s16(steps(2), steps(3)));
    vst1q_u8(out, vreinterpretq_u8_s8(vcombine_s8(left, right)));
  }
  static Values widened(int8x16_t codes) {
    const int16x8_t left = vmovl_s8(vget_low_s8(codes));
    const int16x8_t right = vmovl_s8(vget_high_s8(codes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(left))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(left))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(right))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(right)))}};
  }
  static Values bytes(const std::uint8_t* p) { return widened(vreinterpretq_s8_u8(vld1q_u8(p))); }
  static void nibbles(const std::uint8_t* p, Values& low, Values& high) {
    const uint8x16_t both = vld1q_u8(p);
    low = widened(vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))));
    high = widened(vreinterpretq_s8_u8(vshrq_n_u8(both, 4)));
  }
  static Values tokens(const std::uint16_t* p) {
    const uint16x8_t all = vld1q_u16(p);
    const uint16x8_t left = vzip1q_u16(all, all);
    const uint16x8_t right = vzip2q_u16(all, all);
    return {{floats(vshll_n_u16(vget_low_u16(left), 16)), floats(vshll_n_u16(vget_high_u16(left), 16)),
             floats(vshll_n_u16(vget_low_u16(right), 16)), floats(vshll_n_u16(vget_high_u16(right), 16))}};
  }
  static Values pair(const std::uint16_t* p) {
    const uint16x4_t both = {p[0], p[1], p[0], p[1]};
    const float32x4_t value = floats(vshll_n_u16(both, 16));
    return {{value, value, value, value}};
  }
  static Values multiply(const Values& a, const Values& b) {
    return each([&](int i) { return vmulq_f32(a.at[i], b.at[i]); });
  }
  static Values multiply_add(const Values& a, const Values& b, const Values& c) {
    return each([&](int i) { return vfmaq_f32(c.at[i], a.at[i], b.at[i]); });
  }
  // To bf16. Requires: finite; no denormals are left, they were flushed.
  static uint16x4_t narrowed(float32x4_t x) {
    const uint32x4_t value = bits(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(value, 16), vdupq_n_u32(1));
    return vshrn_n_u32(vaddq_u32(vaddq_u32(value, vdupq_n_u32(0x7fff)), odd), 16);
  }
  static void store(const Values& low, const Values& high, std::uint16_t* out) {
    for (int i = 0; i < kLanes / kVector; i++) {
      vst1_u16(out + kVector * i, narrowed(low.at[i]));
      vst1_u16(out + kLanes + kVector * i, narrowed(high.at[i]));
    }
  }
};

}  // namespace

DALSEGNO_KV_CODES

}  // namespace dalsegno::neon
