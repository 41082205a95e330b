#include <immintrin.h>

#include <cstdint>

#include "kernels/levels.hpp"

namespace dalsegno::avx2 {
namespace {

constexpr std::uint32_t kInfinity = 0x7f800000;
constexpr float kSmallestNormal = 0x1p-126F;

// Largest of 8 magnitudes, as bits.
std::uint32_t largest_of(__m256i m) {
  __m128i h = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
  h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(h));
}

// Sums of the low and of the high 16 int16, as two int16 in one word.
std::int32_t half_sums(__m256i low, __m256i high) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i s = _mm256_hadd_epi32(_mm256_madd_epi16(low, ones), _mm256_madd_epi16(high, ones));
  s = _mm256_hadd_epi32(s, s);
  const __m128i h = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  return _mm_cvtsi128_si32(_mm_shufflelo_epi16(h, 0x08));
}

// The sum of all int32 of a and b, then that of a alone.
void store_sums(__m256i a, __m256i b, std::int32_t* sum) {
  const __m256i s8 = _mm256_hadd_epi32(_mm256_add_epi32(a, b), a);
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(s8), _mm256_extracti128_si256(s8, 1));
  s = _mm_hadd_epi32(s, s);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(sum), s);
}

// Codes and sums of group `at`, counted over all rows; 0 <= scale, zeros where it is 0.
template <bool Wide>
void quantise_group(const __m256 (&x)[4], float scale, const QuantRows& out, std::size_t at) {
  __m256i q[4];
  const __m256 s = _mm256_set1_ps(scale);
  for (int i = 0; i < 4; ++i) q[i] = scale > 0 ? _mm256_cvtps_epi32(_mm256_div_ps(x[i], s)) : _mm256_setzero_si256();
  // Packing works within 128-bit halves; the permutation puts the order right again.
  const __m256i low = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[0], q[1]), 0xd8);
  const __m256i high = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[2], q[3]), 0xd8);
  if constexpr (Wide) {
    auto* codes = reinterpret_cast<__m256i*>(out.codes16 + at * kGroup);
    // k0 k1 k2 k3 -> k0 k2 k1 k3
    _mm256_storeu_si256(codes, _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(low, 0xd8), 0xd8));
    _mm256_storeu_si256(codes + 1, _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(high, 0xd8), 0xd8));
    store_sums(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]), out.sum + 2 * at);
    out.total[at] = static_cast<float>(out.sum[2 * at]);
  } else {
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out.codes + at * kGroup), bytes);
    out.sum[at] = half_sums(low, high);
    out.total[at] = static_cast<float>(static_cast<std::int16_t>(out.sum[at]) + (out.sum[at] >> 16));
  }
}

template <bool Wide>
bool quantise_row(const float* x, int row, const QuantRows& out) {
  constexpr float kMost = Wide ? 32639.0F : 127.0F;
  constexpr std::size_t kWords = Wide ? 2 : 1;
  const int groups = out.k / kGroup;
  const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(groups);
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  std::uint32_t largest = 0;
  for (int g = 0; g < groups; ++g, x += kGroup) {
    __m256 v[4];
    __m256i m = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_loadu_ps(x + 8 * i);
      m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    }
    const std::uint32_t amax = largest_of(m);
    largest = amax > largest ? amax : largest;
    float scale = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(amax)))) / kMost;
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

}  // namespace dalsegno::avx2
