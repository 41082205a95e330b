#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/unroll.hpp"

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

// Each of them as scalar::exp_negative, lane by lane; vscalefps adds the exponent. Step by step for all: one after the
// other, what waits for the first would fill the scheduler before the next is seen.
template <int kCount>
inline __attribute__((always_inline)) void exp_negative(__m512 (&x)[kCount]) {
  const auto each = [](auto step) { DALSEGNO_UNROLL for (int i = 0; i < kCount; ++i) step(i); };
  const __m512 to_integer = _mm512_set1_ps(12582912.0F);
  __mmask16 live[kCount];
  __m512 n[kCount];
  __m512 p[kCount];
  each([&](int i) { live[i] = _mm512_cmp_ps_mask(x[i], _mm512_set1_ps(-87.0F), _CMP_NLT_UQ); });
  each([&](int i) { n[i] = _mm512_mul_ps(x[i], _mm512_set1_ps(1.44269504F)); });
  each([&](int i) { n[i] = _mm512_add_ps(n[i], to_integer); });
  each([&](int i) { n[i] = _mm512_sub_ps(n[i], to_integer); });
  __m512(&r)[kCount] = x;
  each([&](int i) { r[i] = _mm512_fmadd_ps(n[i], _mm512_set1_ps(-0.693359375F), r[i]); });
  each([&](int i) { r[i] = _mm512_fmadd_ps(n[i], _mm512_set1_ps(2.12194440e-4F), r[i]); });
  each(
      [&](int i) { p[i] = _mm512_fmadd_ps(_mm512_set1_ps(1.9875691500e-4F), r[i], _mm512_set1_ps(1.3981999507e-3F)); });
  each([&](int i) { p[i] = _mm512_fmadd_ps(p[i], r[i], _mm512_set1_ps(8.3334519073e-3F)); });
  each([&](int i) { p[i] = _mm512_fmadd_ps(p[i], r[i], _mm512_set1_ps(4.1665795894e-2F)); });
  each([&](int i) { p[i] = _mm512_fmadd_ps(p[i], r[i], _mm512_set1_ps(1.6666665459e-1F)); });
  each([&](int i) { p[i] = _mm512_fmadd_ps(p[i], r[i], _mm512_set1_ps(5.0000001201e-1F)); });
  each([&](int i) { p[i] = _mm512_fmadd_ps(p[i], _mm512_mul_ps(r[i], r[i]), r[i]); });
  each([&](int i) { p[i] = _mm512_add_ps(p[i], _mm512_set1_ps(1.0F)); });
  each([&](int i) { x[i] = _mm512_maskz_scalef_ps(live[i], p[i], n[i]); });
}

inline __m512 exp_negative(__m512 x) {
  __m512 one[1] = {x};
  exp_negative(one);
  return one[0];
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
