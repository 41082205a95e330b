#include "kernels/lanes_neon.hpp"
#include "kernels/levels.hpp"
#include "kernels/unroll.hpp"

namespace dalsegno::neon {
namespace {

// What the compiler cannot know, so that it computes with it. (No instruction.)
template <class T>
inline void hide(T& value) {
  asm volatile("" : "+w"(value));
}

constexpr int kSums = 16;  // as gemm and attend have them: enough for four units of latency 4

}  // namespace

std::uint64_t peak_int8(int rounds) {
  int8x16_t ones = vdupq_n_s8(1);
  hide(ones);
  int32x4_t acc[kSums];
  for (int32x4_t& each : acc) {
    each = vdupq_n_s32(0);
    hide(each);
  }
  for (int round = 0; round < rounds; round++) {
    DALSEGNO_UNROLL
    for (int32x4_t& each : acc) each = vdotq_s32(each, ones, ones);
  }
  std::uint64_t multiply_adds = 0;
  for (const int32x4_t& each : acc) multiply_adds += static_cast<std::uint64_t>(vaddlvq_s32(each));
  return 2 * multiply_adds;
}

// A bf16 pair is widened to two f32 and multiplied with two fma.
std::uint64_t peak_bf16(int rounds) {
  float32x4_t one = vdupq_n_f32(1.0F);
  hide(one);
  float32x4_t acc[kSums];
  for (float32x4_t& each : acc) {
    each = vdupq_n_f32(0.0F);
    hide(each);
  }
  for (int round = 0; round < rounds; round++) {
    DALSEGNO_UNROLL
    for (float32x4_t& each : acc) each = vfmaq_f32(each, one, one);
  }
  std::uint64_t multiply_adds = 0;
  for (const float32x4_t& each : acc) {
    float lanes[kVector];
    vst1q_f32(lanes, each);
    for (const float lane : lanes) multiply_adds += static_cast<std::uint64_t>(lane);
  }
  return 2 * multiply_adds;
}

}  // namespace dalsegno::neon
