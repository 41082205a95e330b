#include "kernels/lanes_avx512.hpp"
#include "kernels/levels.hpp"

namespace dalsegno::avx512 {
namespace {

inline __m512 load(const float* x, int left) {
  return _mm512_maskz_loadu_ps(first(left), x);
}
inline void store(float* x, int left, __m512 value) {
  _mm512_mask_storeu_ps(x, first(left), value);
}

inline __mmask16 not_finite(__m512 x) {
  const __m512i exponent = _mm512_set1_epi32(0x7f800000);
  return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(x), exponent), exponent);
}

// Rounds n values (a multiple of 16) to bf16; false if one of them is not finite then.
inline bool round_row(const float* x, int n, std::uint16_t* out) {
  unsigned bad = 0;
  for (int i = 0; i < n; i += kLanes) {
    const __m256i rounded = to_bf16(_mm512_loadu_ps(x + i));
    const __m256i exponent = _mm256_set1_epi16(0x7f80);
    bad |= static_cast<unsigned>(_mm256_cmpeq_epi16_mask(_mm256_and_si256(rounded, exponent), exponent));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + i), rounded);
  }
  return bad == 0;
}

inline void rotate(__m512& a, __m512& b, __m512 c, __m512 s) {
  const __m512 rotated = _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s));
  b = _mm512_fmadd_ps(a, s, _mm512_mul_ps(b, c));
  a = rotated;
}

void rope_halves(float* x, int half, const float* cos, const float* sin) {
  for (int i = 0; i < half; i += kLanes) {
    const int left = half - i;
    __m512 a = load(x + i, left);
    __m512 b = load(x + half + i, left);
    rotate(a, b, load(cos + i, left), load(sin + i, left));
    store(x + i, left, a);
    store(x + half + i, left, b);
  }
}

void rope_interleaved(float* x, int half, const float* cos, const float* sin) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  for (int i = 0; i < half; i += kLanes) {
    float* pairs = x + 2 * i;
    const int left = 2 * (half - i);
    const __m512 x0 = load(pairs, left);
    const __m512 x1 = load(pairs + kLanes, left - kLanes);
    __m512 a = _mm512_permutex2var_ps(x0, even, x1);
    __m512 b = _mm512_permutex2var_ps(x0, odd, x1);
    rotate(a, b, load(cos + i, half - i), load(sin + i, half - i));
    store(pairs, left, _mm512_permutex2var_ps(a, low, b));
    store(pairs + kLanes, left - kLanes, _mm512_permutex2var_ps(a, high, b));
  }
}

// out = g / (1 + exp(-z)) * up, where z = z_of(g) has the sign of g. Several vectors at a time: see exp_negative().
template <class Z>
inline void gate_mul(const float* gate, const float* up, int n, float* out, const Z& z_of) {
  constexpr int kTogether = 4;
  for (int i = 0; i < n; i += kTogether * kLanes) {
    __m512 g[kTogether];
    __m512 e[kTogether];
    for (int j = 0; j < kTogether; ++j) {
      g[j] = load(gate + i + kLanes * j, n - i - kLanes * j);
      e[j] = _mm512_or_ps(z_of(g[j]), _mm512_set1_ps(-0.0F));
    }
    exp_negative(e);
    for (int j = 0; j < kTogether; ++j) {
      const int at = i + kLanes * j;
      const __mmask16 positive = _mm512_cmp_ps_mask(g[j], _mm512_setzero_ps(), _CMP_GE_OQ);
      const __m512 numerator = _mm512_mask_mov_ps(_mm512_mul_ps(g[j], e[j]), positive, g[j]);
      const __m512 gated = _mm512_div_ps(numerator, _mm512_add_ps(_mm512_set1_ps(1.0F), e[j]));
      store(out + at, n - at, _mm512_mul_ps(gated, load(up + at, n - at)));
    }
  }
}

}  // namespace

void rms_norm(const float* x, const float* w, int n, float eps, float* out) {
  __m512 lanes = _mm512_setzero_ps();
  for (int i = 0; i < n; i += kLanes) {
    const __m512 value = load(x + i, n - i);
    lanes = _mm512_fmadd_ps(value, value, lanes);
  }
  const float mean = fold_add(lanes) / static_cast<float>(n);
  const __m512 inverse = _mm512_set1_ps(1.0F / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + eps))));
  for (int i = 0; i < n; i += kLanes) {
    const __m512 scaled = _mm512_mul_ps(load(x + i, n - i), inverse);
    store(out + i, n - i, _mm512_mul_ps(scaled, load(w + i, n - i)));
  }
}

void scale(float* x, int n, float factor) {
  for (int i = 0; i < n; i += kLanes) {
    store(x + i, n - i, _mm512_mul_ps(load(x + i, n - i), _mm512_set1_ps(factor)));
  }
}

void add(float* x, const float* y, int n) {
  for (int i = 0; i < n; i += kLanes) {
    store(x + i, n - i, _mm512_add_ps(load(x + i, n - i), load(y + i, n - i)));
  }
}

void silu_mul(const float* gate, const float* up, int n, float* out) {
  gate_mul(gate, up, n, out, [](__m512 g) { return g; });
}

void gelu_mul(const float* gate, const float* up, int n, float* out) {
  gate_mul(gate, up, n, out, [](__m512 g) {
    const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(g, g), _mm512_set1_ps(kGeluCube), _mm512_set1_ps(kGeluLinear));
    return _mm512_mul_ps(g, slope);
  });
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
  for (int i = 0; i < n; i += kLanes) {
    _mm256_mask_storeu_epi16(rounded + i, first(n - i), to_bf16(load(q + i, n - i)));
  }
}

bool store_k(const float* k, int head_dim, KvFormat format, std::byte* part, int slot) {
  if (format == KvFormat::f32) {
    const bool finite = all_finite(k, head_dim);
    auto* column = reinterpret_cast<float*>(part) + slot;
    for (int d = 0; d < head_dim; d++) column[d * kBlockTokens] = finite ? k[d] : 0.0F;
    return finite;
  }
  alignas(32) std::uint16_t row[kMaxHeadDim];
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
  alignas(32) std::uint16_t row[kMaxHeadDim];
  const bool finite = round_row(v, head_dim, row);
  auto* pairs = reinterpret_cast<std::uint16_t*>(part) + slot / 2 * 2 * head_dim + slot % 2;
  for (int d = 0; d < head_dim; d++) pairs[2 * d] = finite ? row[d] : std::uint16_t{0};
  return finite;
}

float exp_sum(const float* x, int n, float shift, float* out) {
  __m512 lanes = _mm512_setzero_ps();
  for (int i = 0; i < n; i += kLanes) {
    const __m512 e = exp_negative(_mm512_sub_ps(load(x + i, n - i), _mm512_set1_ps(shift)));
    store(out + i, n - i, e);
    lanes = _mm512_mask_add_ps(lanes, first(n - i), lanes, e);
  }
  return fold_add(lanes);
}

bool all_finite(const float* x, int n) {
  unsigned bad = 0;
  for (int i = 0; i < n; i += kLanes) bad |= static_cast<unsigned>(not_finite(load(x + i, n - i)));
  return bad == 0;
}

}  // namespace dalsegno::avx512
