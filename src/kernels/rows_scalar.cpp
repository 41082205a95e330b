#include <cmath>

#include "kernels/lanes_scalar.hpp"
#include "kernels/levels.hpp"

namespace dalsegno::scalar {
namespace {

bool finite_bf16(const std::uint16_t* x, int n) {
  for (int i = 0; i < n; i++) {
    if ((x[i] & 0x7f80) == 0x7f80) return false;
  }
  return true;
}

}  // namespace

void rms_norm(const float* x, const float* w, int n, float eps, float* out) {
  float lanes[kLanes] = {};
  for (int i = 0; i < n; i++) lanes[i % kLanes] = fma(x[i], x[i], lanes[i % kLanes]);
  const float inverse = 1.0F / std::sqrt(fold(lanes) / static_cast<float>(n) + eps);
  for (int i = 0; i < n; i++) out[i] = mul(mul(x[i], inverse), w[i]);
}

void scale(float* x, int n, float factor) {
  for (int i = 0; i < n; i++) x[i] = mul(x[i], factor);
}

void add(float* x, const float* y, int n) {
  for (int i = 0; i < n; i++) x[i] = x[i] + y[i];
}

void silu_mul(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i++) {
    const float g = gate[i];
    const float e = exp_negative(as_float(as_bits(g) | 0x80000000));
    out[i] = mul((g >= 0.0F ? g : mul(g, e)) / (1.0F + e), up[i]);
  }
}

void gelu_mul(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i++) {
    const float g = gate[i];
    const float z = mul(g, fma(mul(g, g), kGeluCube, kGeluLinear));
    const float e = exp_negative(as_float(as_bits(z) | 0x80000000));
    out[i] = mul((g >= 0.0F ? g : mul(g, e)) / (1.0F + e), up[i]);
  }
}

void rope(float* x, int rope_dim, const float* cos, const float* sin, bool interleaved) {
  const int half = rope_dim / 2;
  for (int i = 0; i < half; i++) {
    float& first = interleaved ? x[2 * i] : x[i];
    float& second = interleaved ? x[2 * i + 1] : x[half + i];
    const float a = first;
    const float b = second;
    first = fma(a, cos[i], -mul(b, sin[i]));
    second = fma(a, sin[i], mul(b, cos[i]));
  }
}

void store_q(const float* q, int n, KvFormat format, void* out) {
  if (format == KvFormat::f32) {
    std::memcpy(out, q, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  auto* rounded = static_cast<std::uint16_t*>(out);
  for (int i = 0; i < n; i++) rounded[i] = to_bf16(q[i]);
}

bool store_k(const float* k, int head_dim, KvFormat format, std::byte* part, int slot) {
  if (format == KvFormat::f32) {
    const bool finite = all_finite(k, head_dim);
    auto* column = reinterpret_cast<float*>(part) + slot;
    for (int d = 0; d < head_dim; d++) column[d * kBlockTokens] = finite ? k[d] : 0.0F;
    return finite;
  }
  std::uint16_t row[kMaxHeadDim];
  store_q(k, head_dim, format, row);
  const bool finite = finite_bf16(row, head_dim);
  auto* column = reinterpret_cast<std::uint16_t*>(part) + 2 * slot;
  for (int d = 0; d < head_dim; d++) column[d / 2 * 2 * kBlockTokens + d % 2] = finite ? row[d] : std::uint16_t{0};
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
  store_q(v, head_dim, format, row);
  const bool finite = finite_bf16(row, head_dim);
  auto* pairs = reinterpret_cast<std::uint16_t*>(part) + slot / 2 * 2 * head_dim + slot % 2;
  for (int d = 0; d < head_dim; d++) pairs[2 * d] = finite ? row[d] : std::uint16_t{0};
  return finite;
}

float exp_sum(const float* x, int n, float shift, float* out) {
  float lanes[kLanes] = {};
  for (int i = 0; i < n; i++) {
    out[i] = exp_negative(x[i] - shift);
    lanes[i % kLanes] = lanes[i % kLanes] + out[i];
  }
  return fold(lanes);
}

bool all_finite(const float* x, int n) {
  for (int i = 0; i < n; i++) {
    if ((as_bits(x[i]) & 0x7f800000) == 0x7f800000) return false;
  }
  return true;
}

}  // namespace dalsegno::scalar
