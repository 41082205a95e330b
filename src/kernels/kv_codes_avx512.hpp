#pragma once

#include "kernels/kv_codes.hpp"
#include "kernels/lanes_avx512.hpp"

// The vocabulary of kv_codes.hpp for AVX-512: attention reads codes with it, too. Internal linkage, as there.
namespace dalsegno::avx512 {
namespace {

struct Level {
  using Values = __m512;
  static Values load(const float* x) { return _mm512_loadu_ps(x); }
  static void put(float* x, Values a) { _mm512_storeu_ps(x, a); }
  static Values fill(float x) { return _mm512_set1_ps(x); }
  static Values add(Values a, Values b) { return _mm512_add_ps(a, b); }
  static Values subtract(Values a, Values b) { return _mm512_sub_ps(a, b); }
  template <int kBy>
  static Values butterfly(Values a) {
    constexpr __mmask16 kUpper = kBy == 1 ? 0xaaaa : kBy == 2 ? 0xcccc : kBy == 4 ? 0xf0f0 : 0xff00;
    const __m512 other = kBy == 1   ? _mm512_permute_ps(a, 0xb1)
                         : kBy == 2 ? _mm512_permute_ps(a, 0x4e)
                         : kBy == 4 ? _mm512_shuffle_f32x4(a, a, 0xb1)
                                    : _mm512_shuffle_f32x4(a, a, 0x4e);
    return _mm512_mask_sub_ps(_mm512_add_ps(a, other), kUpper, other, a);
  }
  static bool round(const float* x, float* out) {
    const __m512i rounded = _mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bf16(_mm512_loadu_ps(x))), 16);
    const __m512i huge = _mm512_set1_epi32(0x7f000000);
    _mm512_store_si512(out, rounded);
    return _mm512_cmpeq_epi32_mask(_mm512_and_si512(rounded, huge), huge) == 0;
  }
  static Values magnitude(Values a) { return _mm512_abs_ps(a); }
  static Values largest(Values a, Values b) { return _mm512_max_ps(a, b); }
  static Values smallest(Values a, Values b) { return _mm512_min_ps(a, b); }
  static float fold_largest(Values a) { return fold_max(a); }
  static float fold_smallest(Values a) { return -fold_max(_mm512_xor_ps(a, _mm512_set1_ps(-0.0F))); }
  static void codes(Values a, float minimum, float scale, std::uint8_t* out) {
    const __m512 steps = _mm512_div_ps(_mm512_sub_ps(a, _mm512_set1_ps(minimum)), _mm512_set1_ps(scale));
    _mm_store_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(steps)));
  }
  static Values bytes(const std::uint8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  // The permutation looks at the low four bits of a lane alone.
  static void nibbles(const std::uint8_t* p, Values& low, Values& high) {
    const __m512 value = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    low = _mm512_permutexvar_ps(both, value);
    high = _mm512_permutexvar_ps(_mm512_srli_epi32(both, 4), value);
  }
  static Values tokens(const std::uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_castsi512_ps(_mm512_or_si512(_mm512_slli_epi64(wide, 16), _mm512_slli_epi64(wide, 48)));
  }
  static Values pair(const std::uint16_t* p) {
    const std::uint64_t both = static_cast<std::uint64_t>(p[1]) << 48 | static_cast<std::uint64_t>(p[0]) << 16;
    return _mm512_castsi512_ps(_mm512_set1_epi64(static_cast<long long>(both)));
  }
  static Values multiply(Values a, Values b) { return _mm512_mul_ps(a, b); }
  static Values multiply_add(Values a, Values b, Values c) { return _mm512_fmadd_ps(a, b, c); }
  static __m512i rounded(Values low, Values high) {
    const __m512bh pairs = _mm512_cvtne2ps_pbh(high, low);
    __m512i bits;
    __builtin_memcpy(&bits, &pairs, sizeof bits);
    return bits;
  }
  static void store(Values low, Values high, std::uint16_t* out) { _mm512_storeu_si512(out, rounded(low, high)); }
};

}  // namespace
}  // namespace dalsegno::avx512
