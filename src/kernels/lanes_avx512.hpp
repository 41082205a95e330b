#pragma once

#include <immintrin.h>

#include <cstdint>

// What the AVX-512 level's files share. Internal linkage: a baseline caller must never be linked to this code.
namespace dalsegno::avx512 {
namespace {

inline constexpr int kLanes = 16;
inline constexpr float kMinusInfinity = -__builtin_inff();

// The first n of 16 lanes.
inline __mmask16 first(int n) {
  if (n >= kLanes) return 0xffff;
  return n <= 0 ? __mmask16{0} : static_cast<__mmask16>((1U << n) - 1U);
}

// As scalar::exp_negative, lane by lane; vscalefps adds the exponent.
inline __m512 exp_negative(__m512 x) {
  const __m512 to_integer = _mm512_set1_ps(12582912.0F);
  const __mmask16 live = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0F), _CMP_NLT_UQ);
  const __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504F));
  const __m512 n = _mm512_sub_ps(_mm512_add_ps(scaled, to_integer), to_integer);
  const __m512 high = _mm512_fmadd_ps(n, _mm512_set1_ps(-0.693359375F), x);
  const __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4F), high);
  __m512 p = _mm512_set1_ps(1.9875691500e-4F);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1F));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1F));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0F));
  return _mm512_maskz_scalef_ps(live, p, n);
}

inline float exp_negative(float x) {
  return _mm512_cvtss_f32(exp_negative(_mm512_set1_ps(x)));
}

// 16 lanes by halves 8, 4, 2, 1: the library's own reductions leave the order open.
inline float fold_add(__m512 x) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

inline float fold_max(__m512 x) {
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// vcvtneps2bf16 rounds to nearest even, flushes denormals and keeps NaN quiet, whatever MXCSR says.
inline __m256i to_bf16(__m512 x) {
  const __m256bh rounded = _mm512_cvtneps_pbh(x);
  __m256i bits;
  __builtin_memcpy(&bits, &rounded, sizeof bits);
  return bits;
}

inline __m512bh as_bf16(__m512i x) {
  __m512bh pairs;
  __builtin_memcpy(&pairs, &x, sizeof pairs);
  return pairs;
}

}  // namespace
}  // namespace dalsegno::avx512
