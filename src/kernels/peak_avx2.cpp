#include "kernels/lanes_avx2.hpp"
#include "kernels/levels.hpp"
#include "kernels/unroll.hpp"

namespace dalsegno::avx2 {
namespace {

// What the compiler cannot know, so that it computes with it. (No instruction.)
template <class T>
inline void hide(T& value) {
  asm volatile("" : "+x"(value));
}

constexpr int kIntegerSums = 8;
constexpr int kFloatSums = 12;
constexpr int kProducts = 4;  // of 8 bits, summed in 16 before they are widened

}  // namespace

std::uint64_t peak_int8(int rounds) {
  __m256i a = _mm256_set1_epi8(1);
  const __m256i b = a;
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i acc[kIntegerSums];
  for (__m256i& each : acc) {
    each = _mm256_setzero_si256();
    hide(each);
  }
  for (int round = 0; round < rounds; round++) {
    DALSEGNO_UNROLL
    for (__m256i& each : acc) {
      hide(a);
      __m256i pairs = _mm256_maddubs_epi16(a, b);
      DALSEGNO_UNROLL
      for (int i = 1; i < kProducts; i++) {
        hide(a);
        pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(a, b));
      }
      each = _mm256_add_epi32(each, _mm256_madd_epi16(pairs, ones));
    }
  }
  std::uint64_t multiply_adds = 0;
  for (const __m256i& each : acc) {
    alignas(32) std::int32_t lanes[kVector];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), each);
    for (const std::int32_t lane : lanes) multiply_adds += static_cast<std::uint64_t>(lane);
  }
  return 2 * multiply_adds;
}

// A bf16 pair is widened to two f32 and multiplied with two fma.
std::uint64_t peak_bf16(int rounds) {
  __m256 one = _mm256_set1_ps(1);
  hide(one);
  __m256 acc[kFloatSums];
  for (__m256& each : acc) {
    each = _mm256_setzero_ps();
    hide(each);
  }
  for (int round = 0; round < rounds; round++) {
    DALSEGNO_UNROLL
    for (__m256& each : acc) each = _mm256_fmadd_ps(one, one, each);
  }
  std::uint64_t multiply_adds = 0;
  for (const __m256& each : acc) {
    alignas(32) float lanes[kVector];
    _mm256_store_ps(lanes, each);
    for (const float lane : lanes) multiply_adds += static_cast<std::uint64_t>(lane);
  }
  return 2 * multiply_adds;
}

}  // namespace dalsegno::avx2
