#include <immintrin.h>

#include <cstdint>

#include "kernels/levels.hpp"

namespace dalsegno::avx512 {
namespace {

constexpr std::uint32_t kInfinity = 0x7f800000;
constexpr float kSmallestNormal = 0x1p-126F;
constexpr float kNearMiddle = 0.5F - 0x1p-14F;  // see small_quotients()

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
  const __m512 y0 = _mm512_mul_ps(v0, reciprocal);
  const __m512 y1 = _mm512_mul_ps(v1, reciprocal);
  const __m512i q0 = _mm512_maskz_cvtps_epi32(live, y0);
  const __m512i q1 = _mm512_maskz_cvtps_epi32(live, y1);
  const __m512 d0 = _mm512_abs_ps(_mm512_sub_ps(y0, _mm512_cvtepi32_ps(q0)));
  const __m512 d1 = _mm512_abs_ps(_mm512_sub_ps(y1, _mm512_cvtepi32_ps(q1)));
  const __mmask16 doubtful =
      _mm512_mask_cmp_ps_mask(live, _mm512_max_ps(d0, d1), _mm512_set1_ps(kNearMiddle), _CMP_GT_OQ);
  if (doubtful == 0) return {q0, q1};
  const __m512 s = _mm512_set1_ps(scale);
  return {_mm512_cvtps_epi32(_mm512_div_ps(v0, s)), _mm512_cvtps_epi32(_mm512_div_ps(v1, s))};
}

// The same by true division, for quotients of any size.
inline Quotients large_quotients(__m512 v0, __m512 v1, float scale, __mmask16 live) {
  const __m512 s = _mm512_set1_ps(scale);
  return {_mm512_maskz_cvtps_epi32(live, _mm512_div_ps(v0, s)), _mm512_maskz_cvtps_epi32(live, _mm512_div_ps(v1, s))};
}

// Groups that are done together, so that their maxima fill one vector, and their sums.
constexpr int kBlock = 16;

// Of each group of a block the largest magnitude, as bits. Every round makes one vector of two.
__m512i largest_of_each(const float* x) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i m[kBlock];
  for (int g = 0; g < kBlock; ++g) {
    const __m512i first = _mm512_castps_si512(_mm512_loadu_ps(x + g * kGroup));
    const __m512i second = _mm512_castps_si512(_mm512_loadu_ps(x + g * kGroup + 16));
    m[g] = _mm512_max_epi32(_mm512_and_si512(first, magnitude), _mm512_and_si512(second, magnitude));
  }
  // Quarters: g, g, g + 4, g + 4; then g, g + 4, g + 8, g + 12.
  for (const int g : {0, 1, 2, 3, 8, 9, 10, 11}) {
    m[g] = _mm512_max_epi32(_mm512_shuffle_i64x2(m[g], m[g + 4], 0x44), _mm512_shuffle_i64x2(m[g], m[g + 4], 0xee));
  }
  for (int g = 0; g < 4; ++g) {
    m[g] = _mm512_max_epi32(_mm512_shuffle_i64x2(m[g], m[g + 8], 0x88), _mm512_shuffle_i64x2(m[g], m[g + 8], 0xdd));
  }
  const __m512i a = _mm512_max_epi32(_mm512_unpacklo_epi32(m[0], m[1]), _mm512_unpackhi_epi32(m[0], m[1]));
  const __m512i b = _mm512_max_epi32(_mm512_unpacklo_epi32(m[2], m[3]), _mm512_unpackhi_epi32(m[2], m[3]));
  return _mm512_max_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// small_quotients() of a group whose 1 / scale is known; 0 gives zeros.
Quotients quotients(const float* x, float scale, float reciprocal) {
  const __m512 v0 = _mm512_loadu_ps(x);
  const __m512 v1 = _mm512_loadu_ps(x + 16);
  const __m512 y0 = _mm512_mul_ps(v0, _mm512_set1_ps(reciprocal));
  const __m512 y1 = _mm512_mul_ps(v1, _mm512_set1_ps(reciprocal));
  // What rounding took away, the larger magnitude of both.
  constexpr int kLargerMagnitude = 11;
  const __m512 d = _mm512_range_ps(_mm512_reduce_ps(y0, 0), _mm512_reduce_ps(y1, 0), kLargerMagnitude);
  if (_mm512_cmp_ps_mask(d, _mm512_set1_ps(kNearMiddle), _CMP_GT_OQ) == 0) {
    return {_mm512_cvtps_epi32(y0), _mm512_cvtps_epi32(y1)};
  }
  const __m512 s = _mm512_set1_ps(scale);
  return {_mm512_cvtps_epi32(_mm512_div_ps(v0, s)), _mm512_cvtps_epi32(_mm512_div_ps(v1, s))};
}

// The codes of two groups.
__m512i codes_of(const Quotients& a, const Quotients& b) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes =
      _mm512_packs_epi16(_mm512_packs_epi32(a.first, a.second), _mm512_packs_epi32(b.first, b.second));
  return _mm512_permutexvar_epi32(order, bytes);
}

// From s[i], sums of four codes each of groups 2 i and 2 i + 1: those of halves of groups, then of groups.
void store_block_sums(const __m512i (&s)[kBlock / 2], std::int32_t* sum, float* total) {
  __m512i halves[2];  // by quarters: first halves of even groups, second ones, first halves of odd groups, second ones
  for (int i = 0; i < 2; ++i) {
    const __m512i* v = s + 4 * i;
    const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    halves[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  }
  const __m512i order = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
  const __m512i first = _mm512_permutex2var_epi32(halves[0], order, halves[1]);
  const __m512i second = _mm512_permutex2var_epi32(halves[0], _mm512_add_epi32(order, _mm512_set1_epi32(4)), halves[1]);
  const __m512i low = _mm512_and_si512(first, _mm512_set1_epi32(0xffff));
  _mm512_storeu_si512(sum, _mm512_or_si512(low, _mm512_slli_epi32(second, 16)));
  _mm512_storeu_ps(total, _mm512_cvtepi32_ps(_mm512_add_epi32(first, second)));
}

// 16 groups from `at` on, counted over all rows, in 8 bits; the largest magnitudes.
__m512i quantise_block(const float* x, const QuantRows& out, std::size_t at) {
  const __m512i amax = largest_of_each(x);
  __m512 scale = _mm512_div_ps(_mm512_castsi512_ps(amax), _mm512_set1_ps(127.0F));
  const __mmask16 live =
      _mm512_mask_cmp_ps_mask(_mm512_cmplt_epi32_mask(amax, _mm512_set1_epi32(static_cast<int>(kInfinity))), scale,
                              _mm512_set1_ps(kSmallestNormal), _CMP_GE_OQ);
  scale = _mm512_maskz_mov_ps(live, scale);
  _mm512_storeu_ps(out.scale + at, scale);
  alignas(64) float reciprocals[kBlock];
  _mm512_store_ps(reciprocals, _mm512_maskz_div_ps(live, _mm512_set1_ps(1.0F), scale));
  __m512i sums[kBlock / 2];
  for (int g = 0; g < kBlock; g += 2) {
    const std::size_t group = at + static_cast<std::size_t>(g);
    const Quotients a = quotients(x + g * kGroup, out.scale[group], reciprocals[g]);
    const Quotients b = quotients(x + (g + 1) * kGroup, out.scale[group + 1], reciprocals[g + 1]);
    const __m512i codes = codes_of(a, b);
    _mm512_storeu_si512(out.codes + group * kGroup, codes);
    sums[g / 2] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
  }
  store_block_sums(sums, out.sum + at, out.total + at);
  return amax;
}

template <bool Wide>
bool quantise_row(const float* x, int row, const QuantRows& out) {
  constexpr float kMost = Wide ? 32639.0F : 127.0F;
  constexpr std::size_t kWords = Wide ? 2 : 1;
  const int groups = out.k / kGroup;
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(groups);
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  std::uint32_t largest = 0;
  int g = 0;
  if constexpr (!Wide) {
    __m512i most = _mm512_setzero_si512();
    for (; g + kBlock <= groups; g += kBlock, x += kBlock * kGroup) {
      most = _mm512_max_epi32(most, quantise_block(x, out, at + static_cast<std::size_t>(g)));
    }
    largest = largest_of(most);
  }
  for (; g < groups; ++g, x += kGroup) {
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
