#include <immintrin.h>

#include <cstdint>

#include "kernels/levels.hpp"

namespace dalsegno::avx512 {
namespace {

constexpr std::uint32_t kInfinity = 0x7f800000;
constexpr float kSmallestNormal = 0x1p-126F;

// Largest of 16 magnitudes, as bits.
std::uint32_t largest_of(__m512i m) {
  const __m256i q = _mm256_max_epi32(_mm512_castsi512_si256(m), _mm512_extracti64x4_epi64(m, 1));
  __m128i h = _mm_max_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
  h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
  h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(h));
}

// Sums of 16 int8 each, as two int16 in one word.
std::int32_t half_sums(__m128i low, __m128i high) {
  const __m128i ones = _mm_set1_epi8(1);
  const __m128i zero = _mm_setzero_si128();
  __m128i s = _mm_hadd_epi32(_mm_dpbusd_epi32(zero, ones, low), _mm_dpbusd_epi32(zero, ones, high));
  s = _mm_hadd_epi32(s, s);
  return _mm_cvtsi128_si32(_mm_shufflelo_epi16(s, 0x08));
}

// The sum of all int32 of a and b, then that of a alone.
void store_sums(__m512i a, __m512i b, std::int32_t* sum) {
  const __m256i a8 = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  const __m256i b8 = _mm256_add_epi32(_mm512_castsi512_si256(b), _mm512_extracti64x4_epi64(b, 1));
  const __m256i s8 = _mm256_hadd_epi32(_mm256_add_epi32(a8, b8), a8);
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
  s = _mm_hadd_epi32(s, s);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(sum), s);
}

// Codes and sums of group `at`, counted over all rows.
void store_group(__m512i q0, __m512i q1, const QuantRows& out, std::size_t at) {
  std::int8_t* codes = out.codes + at * kGroup;
  const __m128i b0 = _mm512_cvtepi32_epi8(q0);
  const __m128i b1 = _mm512_cvtepi32_epi8(q1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), b0);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), b1);
  out.sum[at] = half_sums(b0, b1);
  out.total[at] = static_cast<float>(static_cast<std::int16_t>(out.sum[at]) + (out.sum[at] >> 16));
}

void store_wide_group(__m512i q0, __m512i q1, const QuantRows& out, std::size_t at) {
  std::int16_t* codes = out.codes16 + at * kGroup;
  for (const __m512i q : {q0, q1}) {
    const __m256i words = _mm512_cvtepi32_epi16(q);
    // k0 k1 k2 k3 -> k0 k2 k1 k3
    const __m256i ordered = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), ordered);
    codes += kGroup / 2;
  }
  store_sums(q0, q1, out.sum + 2 * at);
  out.total[at] = static_cast<float>(out.sum[2 * at]);
}

// Whole numbers nearest to v / scale, as the true division would give them. A product with the reciprocal is
// within 2^-15 of the rounded quotient where that is at most 127 (three roundings of 2^-24 each), so it rounds alike
// unless it falls within 2^-14 of the middle between two whole numbers: then, for one group of random values in some
// 250, it is divided. live: 0 gives zeros.
struct Quotients {
  __m512i first;
  __m512i second;
};
inline Quotients small_quotients(__m512 v0, __m512 v1, float scale, __mmask16 live) {
  const __m512 reciprocal = _mm512_maskz_mov_ps(live, _mm512_set1_ps(1.0F / scale));
  const __m512 near_middle = _mm512_set1_ps(0.5F - 0x1p-14F);
  const __m512 y0 = _mm512_mul_ps(v0, reciprocal);
  const __m512 y1 = _mm512_mul_ps(v1, reciprocal);
  const __m512i q0 = _mm512_maskz_cvtps_epi32(live, y0);
  const __m512i q1 = _mm512_maskz_cvtps_epi32(live, y1);
  const __m512 d0 = _mm512_abs_ps(_mm512_sub_ps(y0, _mm512_cvtepi32_ps(q0)));
  const __m512 d1 = _mm512_abs_ps(_mm512_sub_ps(y1, _mm512_cvtepi32_ps(q1)));
  const __mmask16 doubtful = _mm512_mask_cmp_ps_mask(live, _mm512_max_ps(d0, d1), near_middle, _CMP_GT_OQ);
  if (doubtful == 0) return {q0, q1};
  const __m512 s = _mm512_set1_ps(scale);
  return {_mm512_cvtps_epi32(_mm512_div_ps(v0, s)), _mm512_cvtps_epi32(_mm512_div_ps(v1, s))};
}

// The same by true division, for quotients of any size.
inline Quotients large_quotients(__m512 v0, __m512 v1, float scale, __mmask16 live) {
  const __m512 s = _mm512_set1_ps(scale);
  return {_mm512_maskz_cvtps_epi32(live, _mm512_div_ps(v0, s)), _mm512_maskz_cvtps_epi32(live, _mm512_div_ps(v1, s))};
}

template <bool Wide>
bool quantise_row(const float* x, int row, const QuantRows& out) {
  constexpr float kMost = Wide ? 32639.0F : 127.0F;
  constexpr std::size_t kWords = Wide ? 2 : 1;
  const int groups = out.k / kGroup;
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(groups);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  std::uint32_t largest = 0;
  for (int g = 0; g < groups; ++g, x += kGroup) {
    const __m512 v0 = _mm512_loadu_ps(x);
    const __m512 v1 = _mm512_loadu_ps(x + 16);
    const std::uint32_t amax = largest_of(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(v0), magnitude),
                                                           _mm512_and_si512(_mm512_castps_si512(v1), magnitude)));
    largest = amax > largest ? amax : largest;
    float scale = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(amax)))) / kMost;
    if (amax >= kInfinity || scale < kSmallestNormal) scale = 0;
    const __mmask16 live = scale > 0 ? 0xffff : 0;
    const Quotients q = (Wide ? large_quotients : small_quotients)(v0, v1, scale, live);
    (Wide ? store_wide_group : store_group)(q.first, q.second, out, at + static_cast<std::size_t>(g));
    out.scale[at + static_cast<std::size_t>(g)] = scale;
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

}  // namespace dalsegno::avx512
