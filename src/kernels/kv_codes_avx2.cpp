#include "kernels/kv_codes.hpp"

#include "kernels/lanes_avx2.hpp"
#include "kernels/levels.hpp"

namespace dalsegno::avx2 {
namespace {

struct Level {
  struct Values {
    __m256 left;
    __m256 right;
  };
  static Values load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + kVector)}; }
  static void put(float* x, const Values& a) {
    _mm256_storeu_ps(x, a.left);
    _mm256_storeu_ps(x + kVector, a.right);
  }
  static Values fill(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Values add(const Values& a, const Values& b) {
    return {_mm256_add_ps(a.left, b.left), _mm256_add_ps(a.right, b.right)};
  }
  static Values subtract(const Values& a, const Values& b) {
    return {_mm256_sub_ps(a.left, b.left), _mm256_sub_ps(a.right, b.right)};
  }
  template <int kBy>
  static __m256 butterfly(__m256 a) {
    constexpr int kUpper = kBy == 1 ? 0xaa : kBy == 2 ? 0xcc : 0xf0;
    const __m256 other = kBy == 1   ? _mm256_permute_ps(a, 0xb1)
                         : kBy == 2 ? _mm256_permute_ps(a, 0x4e)
                                    : _mm256_permute2f128_ps(a, a, 1);
    return _mm256_blend_ps(_mm256_add_ps(a, other), _mm256_sub_ps(other, a), kUpper);
  }
  template <int kBy>
  static Values butterfly(const Values& a) {
    if constexpr (kBy == kVector) return {_mm256_add_ps(a.left, a.right), _mm256_sub_ps(a.left, a.right)};
    return {butterfly<kBy>(a.left), butterfly<kBy>(a.right)};
  }
  static bool round(const float* x, float* out) {
    const __m256i huge = _mm256_set1_epi32(0x7f000000);
    __m256i bad = _mm256_setzero_si256();
    for (int i = 0; i < kLanes; i += kVector) {
      const __m256i rounded = round_to_bf16(_mm256_loadu_ps(x + i));
      bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(_mm256_and_si256(rounded, huge), huge));
      _mm256_store_ps(out + i, floats(rounded));
    }
    return _mm256_testz_si256(bad, bad) != 0;
  }
  static __m256 flipped(__m256 a) { return _mm256_xor_ps(a, _mm256_set1_ps(-0.0F)); }
  static Values magnitude(const Values& a) {
    const __m256 sign = _mm256_set1_ps(-0.0F);
    return {_mm256_andnot_ps(sign, a.left), _mm256_andnot_ps(sign, a.right)};
  }
  static Values largest(const Values& a, const Values& b) {
    return {_mm256_max_ps(a.left, b.left), _mm256_max_ps(a.right, b.right)};
  }
  static Values smallest(const Values& a, const Values& b) {
    return {_mm256_min_ps(a.left, b.left), _mm256_min_ps(a.right, b.right)};
  }
  static float fold_largest(const Values& a) { return fold_max(_mm256_max_ps(a.left, a.right)); }
  static float fold_smallest(const Values& a) { return -fold_max(flipped(_mm256_min_ps(a.left, a.right))); }
  static void codes(const Values& a, float minimum, float scale, std::uint8_t* out) {
    const auto steps = [&](__m256 x) {
      return _mm256_cvtps_epi32(_mm256_div_ps(_mm256_sub_ps(x, _mm256_set1_ps(minimum)), _mm256_set1_ps(scale)));
    };
    const __m256i low_bytes = _mm256_set1_epi32(0xff);
    const __m256i words =
        _mm256_packus_epi32(_mm256_and_si256(steps(a.left), low_bytes), _mm256_and_si256(steps(a.right), low_bytes));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i packed = _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_store_si128(reinterpret_cast<__m128i*>(out), packed);
  }
  static Values bytes(const std::uint8_t* p) {
    const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(all)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(all, kVector)))};
  }
  static void nibbles(const std::uint8_t* p, Values& low, Values& high) {
    const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m256i left = _mm256_cvtepu8_epi32(all);
    const __m256i right = _mm256_cvtepu8_epi32(_mm_srli_si128(all, kVector));
    const __m256i mask = _mm256_set1_epi32(15);
    low = {_mm256_cvtepi32_ps(_mm256_and_si256(left, mask)), _mm256_cvtepi32_ps(_mm256_and_si256(right, mask))};
    high = {_mm256_cvtepi32_ps(_mm256_srli_epi32(left, 4)), _mm256_cvtepi32_ps(_mm256_srli_epi32(right, 4))};
  }
  static Values tokens(const std::uint16_t* p) {
    const __m128i all = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const auto twice = [](__m256i wide) {
      return floats(_mm256_or_si256(_mm256_slli_epi64(wide, 16), _mm256_slli_epi64(wide, 48)));
    };
    return {twice(_mm256_cvtepu16_epi64(all)), twice(_mm256_cvtepu16_epi64(_mm_srli_si128(all, 8)))};
  }
  static Values pair(const std::uint16_t* p) {
    const std::uint64_t both = static_cast<std::uint64_t>(p[1]) << 48 | static_cast<std::uint64_t>(p[0]) << 16;
    const __m256 value = floats(_mm256_set1_epi64x(static_cast<long long>(both)));
    return {value, value};
  }
  static Values multiply(const Values& a, const Values& b) {
    return {_mm256_mul_ps(a.left, b.left), _mm256_mul_ps(a.right, b.right)};
  }
  static Values multiply_add(const Values& a, const Values& b, const Values& c) {
    return {_mm256_fmadd_ps(a.left, b.left, c.left), _mm256_fmadd_ps(a.right, b.right, c.right)};
  }
  // To bf16 in the low halves. Requires: finite; no denormals are left, they were flushed.
  static __m256i narrowed(__m256 x) {
    const __m256i value = bits(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(value, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(value, _mm256_set1_epi32(0x7fff)), odd);
    return _mm256_srli_epi32(rounded, 16);
  }
  static void store_16(const Values& a, std::uint16_t* out) {
    const __m256i words = _mm256_packus_epi32(narrowed(a.left), narrowed(a.right));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute4x64_epi64(words, 0xd8));
  }
  static void store(const Values& low, const Values& high, std::uint16_t* out) {
    store_16(low, out);
    store_16(high, out + kLanes);
  }
};

}  // namespace

DALSEGNO_KV_CODES

}  // namespace dalsegno::avx2
