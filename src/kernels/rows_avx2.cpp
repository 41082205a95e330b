#include "kernels/lanes_avx2.hpp"
#include "kernels/levels.hpp"

namespace dalsegno::avx2 {
namespace {

inline __m256 load(const float* x, int left) {
  return left >= kVector ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, first(left));
}

inline void store(float* x, int left, __m256 value) {
  if (left >= kVector) {
    _mm256_storeu_ps(x, value);
  } else {
    _mm256_maskstore_ps(x, first(left), value);
  }
}

// Eight bf16 values, from the upper halves of the lanes.
inline __m128i narrow(__m256i rounded) {
  const __m256i low = _mm256_srli_epi32(rounded, 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
}

// Lanes whose value is NaN or infinite.
inline __m256i not_finite(__m256i value) {
  const __m256i exponent = _mm256_set1_epi32(0x7f800000);
  return _mm256_cmpeq_epi32(_mm256_and_si256(value, exponent), exponent);
}

// Rounds n values (a multiple of 16) to bf16; false if one of them is not finite then.
inline bool round_row(const float* x, int n, std::uint16_t* out) {
  __m256i bad = _mm256_setzero_si256();
  for (int i = 0; i < n; i += kVector) {
    const __m256i rounded = round_to_bf16(_mm256_loadu_ps(x + i));
    bad = _mm256_or_si256(bad, not_finite(rounded));
    _mm_store_si128(reinterpret_cast<__m128i*>(out + i), narrow(rounded));
  }
  return _mm256_testz_si256(bad, bad) != 0;
}

inline void rotate(__m256& a, __m256& b, __m256 c, __m256 s) {
  const __m256 rotated = _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s));
  b = _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c));
  a = rotated;
}

void rope_halves(float* x, int half, const float* cos, const float* sin) {
  for (int i = 0; i < half; i += kVector) {
    const int left = half - i;
    __m256 a = load(x + i, left);
    __m256 b = load(x + half + i, left);
    rotate(a, b, load(cos + i, left), load(sin + i, left));
    store(x + i, left, a);
    store(x + half + i, left, b);
  }
}

// Four pairs at a time: both results of a pair are computed in both of its lanes, and the right one is kept.
void rope_interleaved(float* x, int half, const float* cos, const float* sin) {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  for (int i = 0; i < half; i += kVector / 2) {
    const int left = 2 * (half - i);
    const __m256 pairs = load(x + 2 * i, left);
    const __m256 c = _mm256_permutevar8x32_ps(load(cos + i, left / 2 < 4 ? left / 2 : 4), twice);
    const __m256 s = _mm256_permutevar8x32_ps(load(sin + i, left / 2 < 4 ? left / 2 : 4), twice);
    __m256 a = _mm256_moveldup_ps(pairs);
    __m256 b = _mm256_movehdup_ps(pairs);
    rotate(a, b, c, s);
    store(x + 2 * i, left, _mm256_blend_ps(a, b, 0xaa));
  }
}

// g / (1 + exp(-z)), where z has the sign of g.
inline __m256 times_sigmoid(__m256 g, __m256 z) {
  const __m256 e = exp_negative(_mm256_or_ps(z, _mm256_set1_ps(-0.0F)));
  const __m256 positive = _mm256_cmp_ps(g, _mm256_setzero_ps(), _CMP_GE_OQ);
  const __m256 numerator = _mm256_blendv_ps(_mm256_mul_ps(g, e), g, positive);
  return _mm256_div_ps(numerator, _mm256_add_ps(_mm256_set1_ps(1.0F), e));
}

}  // namespace

void rms_norm(const float* x, const float* w, int n, float eps, float* out) {
  __m256 lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int i = 0; i < n; i += kLanes) {
    for (int j = 0; j < 2 && i + kVector * j < n; j++) {
      const __m256 value = load(x + i + kVector * j, n - i - kVector * j);
      lanes[j] = _mm256_fmadd_ps(value, value, lanes[j]);
    }
  }
  const float mean = fold_add(lanes[0], lanes[1]) / static_cast<float>(n);
  const __m256 inverse = _mm256_set1_ps(1.0F / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + eps))));
  for (int i = 0; i < n; i += kVector) {
    const __m256 scaled = _mm256_mul_ps(load(x + i, n - i), inverse);
    store(out + i, n - i, _mm256_mul_ps(scaled, load(w + i, n - i)));
  }
}

void scale(float* x, int n, float factor) {
  for (int i = 0; i < n; i += kVector) {
    store(x + i, n - i, _mm256_mul_ps(load(x + i, n - i), _mm256_set1_ps(factor)));
  }
}

void add(float* x, const float* y, int n) {
  for (int i = 0; i < n; i += kVector) {
    store(x + i, n - i, _mm256_add_ps(load(x + i, n - i), load(y + i, n - i)));
  }
}

void silu_mul(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += kVector) {
    const __m256 g = load(gate + i, n - i);
    store(out + i, n - i, _mm256_mul_ps(times_sigmoid(g, g), load(up + i, n - i)));
  }
}

void gelu_mul(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += kVector) {
    const __m256 g = load(gate + i, n - i);
    const __m256 slope = _mm256_fmadd_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(kGeluCube), _mm256_set1_ps(kGeluLinear));
    store(out + i, n - i, _mm256_mul_ps(times_sigmoid(g, _mm256_mul_ps(g, slope)), load(up + i, n - i)));
  }
}

void rope(float* x, int rope_dim, const float* cos, const float* sin, bool interleaved) {
  (interleaved ? rope_interleaved : rope_halves)(x, rope_dim / 2, cos, sin);
}

void store_q(const float* q, int n, KvFormat format, void* out) {
  if (format == KvFormat::f32) {
    __builtin_memcpy(out, q, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  auto* rounded = static_cast<std::uint16_t*>(out);
  for (int i = 0; i < n; i += kVector) {
    alignas(16) std::uint16_t eight[kVector];
    _mm_store_si128(reinterpret_cast<__m128i*>(eight), narrow(round_to_bf16(load(q + i, n - i))));
    const int count = n - i < kVector ? n - i : kVector;
    __builtin_memcpy(rounded + i, eight, static_cast<std::size_t>(count) * sizeof eight[0]);
  }
}

bool store_k(const float* k, int head_dim, KvFormat format, std::byte* part, int slot) {
  if (format == KvFormat::f32) {
    const bool finite = all_finite(k, head_dim);
    auto* column = reinterpret_cast<float*>(part) + slot;
    for (int d = 0; d < head_dim; d++) column[d * kBlockTokens] = finite ? k[d] : 0.0F;
    return finite;
  }
  alignas(16) std::uint16_t row[kMaxHeadDim];
  const bool finite = round_row(k, head_dim, row);
  if (!finite) __builtin_memset(row, 0, sizeof row);
  for (int d = 0; d < head_dim; d += 2) {
    __builtin_memcpy(part + (d / 2 * kBlockTokens + slot) * 4, row + d, 4);
  }
  return finite;
}

bool store_v(const float* v, int head_dim, KvFormat format, std::byte* part, int slot) {
  if (format == KvFormat::f32) {
    const bool finite = all_finite(v, head_dim);
    auto* row = reinterpret_cast<float*>(part) + slot * head_dim;
    for (int d = 0; d < head_dim; d++) row[d] = finite ? v[d] : 0.0F;
    return finite;
  }
  alignas(16) std::uint16_t row[kMaxHeadDim];
  const bool finite = round_row(v, head_dim, row);
  auto* pairs = reinterpret_cast<std::uint16_t*>(part) + slot / 2 * 2 * head_dim + slot % 2;
  for (int d = 0; d < head_dim; d++) pairs[2 * d] = finite ? row[d] : std::uint16_t{0};
  return finite;
}

float exp_sum(const float* x, int n, float shift, float* out) {
  __m256 lanes[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
  for (int i = 0; i < n; i += kLanes) {
    for (int j = 0; j < 2 && i + kVector * j < n; j++) {
      const int left = n - i - kVector * j;
      const __m256 x8 = load(x + i + kVector * j, left);
      const __m256 e = exp_negative(_mm256_sub_ps(x8, _mm256_set1_ps(shift)));
      store(out + i + kVector * j, left, e);
      lanes[j] = _mm256_add_ps(lanes[j], _mm256_and_ps(e, floats(first(left))));
    }
  }
  return fold_add(lanes[0], lanes[1]);
}

bool all_finite(const float* x, int n) {
  __m256i bad = _mm256_setzero_si256();
  for (int i = 0; i < n; i += kVector) bad = _mm256_or_si256(bad, not_finite(bits(load(x + i, n - i))));
  return _mm256_testz_si256(bad, bad) != 0;
}

}  // namespace dalsegno::avx2
