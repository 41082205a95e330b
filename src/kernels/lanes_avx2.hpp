#pragma once

#include <immintrin.h>

#include <cstdint>

// What the AVX2 level's files share. Internal linkage: a baseline caller must never be linked to this code.
namespace dalsegno::avx2 {
namespace {

inline constexpr int kLanes = 16;  // virtual lanes, two vectors
inline constexpr int kVector = 8;
inline constexpr float kMinusInfinity = -__builtin_inff();

inline __m256i bits(__m256 x) {
  return _mm256_castps_si256(x);
}
inline __m256 floats(__m256i x) {
  return _mm256_castsi256_ps(x);
}

// The first n of 8 lanes, all bits of a lane set.
inline __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// As scalar::exp_negative, lane by lane.
inline __m256 exp_negative(__m256 x) {
  const __m256 to_integer = _mm256_set1_ps(12582912.0F);
  const __m256 live = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0F), _CMP_NLT_UQ);
  const __m256 shifted = _mm256_add_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504F)), to_integer);
  const __m256 n = _mm256_sub_ps(shifted, to_integer);
  const __m256 high = _mm256_fmadd_ps(n, _mm256_set1_ps(-0.693359375F), x);
  const __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4F), high);
  __m256 p = _mm256_set1_ps(1.9875691500e-4F);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.3981999507e-3F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(8.3334519073e-3F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(4.1665795894e-2F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(1.6666665459e-1F));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(5.0000001201e-1F));
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0F));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(bits(shifted), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(live, _mm256_mul_ps(p, floats(power)));
}

inline float exp_negative(float x) {
  return _mm256_cvtss_f32(exp_negative(_mm256_set1_ps(x)));
}

// 16 lanes by halves 8, 4, 2, 1.
inline float fold_add(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline float fold_max(__m256 eight) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// As scalar::to_bf16, in the upper half of each lane; the lower half is zero.
inline __m256i round_to_bf16(__m256 x) {
  const __m256i value = bits(x);
  const __m256i infinity = _mm256_set1_epi32(0x7f800000);
  const __m256i magnitude = _mm256_and_si256(value, _mm256_set1_epi32(0x7fffffff));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(value, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(value, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(value, _mm256_set1_epi32(0x400000));
  const __m256i sign = _mm256_and_si256(value, _mm256_set1_epi32(INT32_MIN));
  const __m256i nan = _mm256_cmpgt_epi32(magnitude, infinity);
  const __m256i denormal = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
  const __m256i chosen = _mm256_blendv_epi8(_mm256_blendv_epi8(rounded, quiet, nan), sign, denormal);
  return _mm256_and_si256(chosen, _mm256_set1_epi32(static_cast<int>(0xffff0000U)));
}

}  // namespace
}  // namespace dalsegno::avx2
