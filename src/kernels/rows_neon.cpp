#include "kernels/lanes_neon.hpp"
#include "kernels/levels.hpp"

namespace dalsegno::neon {
namespace {

inline float32x4_t load(const float* x, int left) {
  if (left >= kVector) return vld1q_f32(x);
  float four[kVector] = {};
  for (int i = 0; i < left; i++) four[i] = x[i];
  return vld1q_f32(four);
}

inline void store(float* x, int left, float32x4_t value) {
  if (left >= kVector) return vst1q_f32(x, value);
  float four[kVector];
  vst1q_f32(four, value);
  for (int i = 0; i < left; i++) x[i] = four[i];
}

// Lanes whose value is NaN or infinite.
inline uint32x4_t not_finite(uint32x4_t value) {
  const uint32x4_t exponent = vdupq_n_u32(0x7f800000);
  return vceqq_u32(vandq_u32(value, exponent), exponent);
}

// Rounds n values (a multiple of 16) to bf16; false if one of them is not finite then.
inline bool round_row(const float* x, int n, std::uint16_t* out) {
  uint32x4_t bad = vdupq_n_u32(0);
  for (int i = 0; i < n; i += kVector) {
    const uint32x4_t rounded = round_to_bf16(vld1q_f32(x + i));
    bad = vorrq_u32(bad, not_finite(rounded));
    vst1_u16(out + i, vshrn_n_u32(rounded, 16));
  }
  return vmaxvq_u32(bad) == 0;
}

inline void rotate(float32x4_t& a, float32x4_t& b, float32x4_t c, float32x4_t s) {
  const float32x4_t rotated = Exact::fma(vnegq_f32(Exact::mul(b, s)), a, c);
  b = Exact::fma(Exact::mul(b, c), a, s);
  a = rotated;
}

void rope_halves(float* x, int half, const float* cos, const float* sin) {
  for (int i = 0; i < half; i += kVector) {
    const int left = half - i;
    float32x4_t a = load(x + i, left);
    float32x4_t b = load(x + half + i, left);
    rotate(a, b, load(cos + i, left), load(sin + i, left));
    store(x + i, left, a);
    store(x + half + i, left, b);
  }
}

// Four pairs at a time: even elements in one vector, odd ones in the other.
void rope_interleaved(float* x, int half, const float* cos, const float* sin) {
  for (int i = 0; i < half; i += kVector) {
    const int left = half - i;
    const float32x4_t low = load(x + 2 * i, 2 * left);
    const float32x4_t high = left > 2 ? load(x + 2 * i + kVector, 2 * left - kVector) : vdupq_n_f32(0.0F);
    float32x4_t a = vuzp1q_f32(low, high);
    float32x4_t b = vuzp2q_f32(low, high);
    rotate(a, b, load(cos + i, left), load(sin + i, left));
    store(x + 2 * i, 2 * left, vzip1q_f32(a, b));
    if (left > 2) store(x + 2 * i + kVector, 2 * left - kVector, vzip2q_f32(a, b));
  }
}

// g / (1 + exp(-z)), where z has the sign of g.
inline float32x4_t times_sigmoid(float32x4_t g, float32x4_t z) {
  const float32x4_t e = exp_negative(vnegq_f32(vabsq_f32(z)));
  const float32x4_t numerator = vbslq_f32(vcgezq_f32(g), g, Exact::mul(g, e));
  return vdivq_f32(numerator, vaddq_f32(vdupq_n_f32(1.0F), e));
}

}  // namespace

void rms_norm(const float* x, const float* w, int n, float eps, float* out) {
  float32x4_t lanes[4] = {vdupq_n_f32(0.0F), vdupq_n_f32(0.0F), vdupq_n_f32(0.0F), vdupq_n_f32(0.0F)};
  for (int i = 0; i < n; i += kLanes) {
    for (int j = 0; j < 4 && i + kVector * j < n; j++) {
      const float32x4_t value = load(x + i + kVector * j, n - i - kVector * j);
      lanes[j] = vfmaq_f32(lanes[j], value, value);  // no square lies next to 2^-126
    }
  }
  const float mean = fold_add(lanes) / static_cast<float>(n);
  const float32x4_t root = vsqrtq_f32(vdupq_n_f32(mean + eps));
  const float32x4_t inverse = vdivq_f32(vdupq_n_f32(1.0F), root);
  for (int i = 0; i < n; i += kVector) {
    const float32x4_t scaled = Exact::mul(load(x + i, n - i), inverse);
    store(out + i, n - i, Exact::mul(scaled, load(w + i, n - i)));
  }
}

void scale(float* x, int n, float factor) {
  for (int i = 0; i < n; i += kVector) {
    store(x + i, n - i, Exact::mul(load(x + i, n - i), vdupq_n_f32(factor)));
  }
}

void add(float* x, const float* y, int n) {
  for (int i = 0; i < n; i += kVector) store(x + i, n - i, vaddq_f32(load(x + i, n - i), load(y + i, n - i)));
}

void silu_mul(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += kVector) {
    const float32x4_t g = load(gate + i, n - i);
    store(out + i, n - i, Exact::mul(times_sigmoid(g, g), load(up + i, n - i)));
  }
}

void gelu_mul(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += kVector) {
    const float32x4_t g = load(gate + i, n - i);
    // Whether z next to 2^-126 is flushed changes nothing: exp of it is 1.
    const float32x4_t slope = vfmaq_f32(vdupq_n_f32(kGeluLinear), vmulq_f32(g, g), vdupq_n_f32(kGeluCube));
    store(out + i, n - i, Exact::mul(times_sigmoid(g, vmulq_f32(g, slope)), load(up + i, n - i)));
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
    std::uint16_t four[kVector];
    vst1_u16(four, vshrn_n_u32(round_to_bf16(load(q + i, n - i)), 16));
    const int count = n - i < kVector ? n - i : kVector;
    __builtin_memcpy(rounded + i, four, static_cast<std::size_t>(count) * sizeof four[0]);
  }
}

bool store_k(const float* k, int head_dim, KvFormat format, std::byte* part, int slot) {
  if (format == KvFormat::f32) {
    const bool finite = all_finite(k, head_dim);
    auto* column = reinterpret_cast<float*>(part) + slot;
    for (int d = 0; d < head_dim; d++) column[d * kBlockTokens] = finite ? k[d] : 0.0F;
    return finite;
  }
  std::uint16_t row[kMaxHeadDim];
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
  std::uint16_t row[kMaxHeadDim];
  const bool finite = round_row(v, head_dim, row);
  auto* pairs = reinterpret_cast<std::uint16_t*>(part) + slot / 2 * 2 * head_dim + slot % 2;
  for (int d = 0; d < head_dim; d++) pairs[2 * d] = finite ? row[d] : std::uint16_t{0};
  return finite;
}

float exp_sum(const float* x, int n, float shift, float* out) {
  float32x4_t lanes[4] = {vdupq_n_f32(0.0F), vdupq_n_f32(0.0F), vdupq_n_f32(0.0F), vdupq_n_f32(0.0F)};
  for (int i = 0; i < n; i += kLanes) {
    for (int j = 0; j < 4 && i + kVector * j < n; j++) {
      const int left = n - i - kVector * j;
      const float32x4_t e = exp_negative(vsubq_f32(load(x + i + kVector * j, left), vdupq_n_f32(shift)));
      store(out + i + kVector * j, left, e);
      lanes[j] = vaddq_f32(lanes[j], floats(vandq_u32(bits(e), first(left))));
    }
  }
  return fold_add(lanes);
}

bool all_finite(const float* x, int n) {
  uint32x4_t bad = vdupq_n_u32(0);
  for (int i = 0; i < n; i += kVector) bad = vorrq_u32(bad, not_finite(bits(load(x + i, n - i))));
  return vmaxvq_u32(bad) == 0;
}

}  // namespace dalsegno::neon
