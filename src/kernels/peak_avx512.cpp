#include "kernels/lanes_avx512.hpp"
#include "kernels/levels.hpp"
#include "kernels/unroll.hpp"

namespace dalsegno::avx512 {
namespace {

// What the compiler cannot know, so that it computes with it. (No instruction.)
template <class T>
inline void hide(T& value) {
  asm volatile("" : "+v"(value));
}

// Enough to keep two units of latency 5 busy.
constexpr int kSums = 16;
constexpr int kFloats = 16;

}  // namespace

std::uint64_t peak_int8(int rounds) {
  __m512i ones = _mm512_set1_epi8(1);
  hide(ones);
  __m512i acc[kSums];
  for (__m512i& each : acc) {
    each = _mm512_setzero_si512();
    hide(each);
  }
  for (int round = 0; round < rounds; round++) {
    DALSEGNO_UNROLL
    for (__m512i& each : acc) each = _mm512_dpbusd_epi32(each, ones, ones);
  }
  std::uint64_t multiply_adds = 0;
  for (const __m512i& each : acc) {
    alignas(64) std::int32_t lanes[kFloats];
    _mm512_store_si512(lanes, each);
    for (const std::int32_t lane : lanes) multiply_adds += static_cast<std::uint64_t>(lane);
  }
  return 2 * multiply_adds;
}

std::uint64_t peak_bf16(int rounds) {
  __m512i ones = _mm512_set1_epi16(0x3f80);
  hide(ones);
  __m512 acc[kSums];
  for (__m512& each : acc) {
    each = _mm512_setzero_ps();
    hide(each);
  }
  for (int round = 0; round < rounds; round++) {
    DALSEGNO_UNROLL
    for (__m512& each : acc) each = _mm512_dpbf16_ps(each, as_bf16(ones), as_bf16(ones));
  }
  std::uint64_t multiply_adds = 0;
  for (const __m512& each : acc) {
    alignas(64) float lanes[kFloats];
    _mm512_store_ps(lanes, each);
    for (const float lane : lanes) multiply_adds += static_cast<std::uint64_t>(lane);
  }
  return 2 * multiply_adds;
}

}  // namespace dalsegno::avx512
