#pragma once

#include "kernels/kernels.hpp"

// What each CPU level's files define; kernels.cpp puts them into the tables. A level that
// does not accelerate something has no entry here and keeps the scalar one.
namespace dalsegno {

#define DALSEGNO_LEVEL_FUNCTIONS                                                                                     \
  /* gemm_LEVEL.cpp */                                                                                               \
  void gemm(const GemmArgs& args);                                                                                   \
  bool quantise(const float* x, int row, const QuantRows& out);                                                      \
  /* attention_LEVEL.cpp */                                                                                          \
  void attend(const AttentionArgs& args);                                                                            \
  void merge(AttentionState& total, const AttentionState& part, int head_dim);                                       \
  void finish(const AttentionState& total, int head_dim, float* out);                                                \
  /* rows_LEVEL.cpp */                                                                                               \
  void rms_norm(const float* x, const float* w, int n, float eps, float* out);                                       \
  void scale(float* x, int n, float factor);                                                                         \
  void add(float* x, const float* y, int n);                                                                         \
  void silu_mul(const float* gate, const float* up, int n, float* out);                                              \
  void gelu_mul(const float* gate, const float* up, int n, float* out);                                              \
  void rope(float* x, int rope_dim, const float* cos, const float* sin, bool interleaved);                           \
  void store_q(const float* q, int n, KvFormat format, void* out);                                                   \
  bool store_k(const float* k, int head_dim, KvFormat format, std::byte* part, int slot);                            \
  bool store_v(const float* v, int head_dim, KvFormat format, std::byte* part, int slot);                            \
  float exp_sum(const float* x, int n, float shift, float* out);                                                     \
  bool all_finite(const float* x, int n);                                                                            \
  /* kv_codes_LEVEL.cpp */                                                                                           \
  void hadamard(float* x, int n, float factor);                                                                      \
  bool store_codes(const float* x, const KvCodes& codes, KvPart kind, std::byte* part, int slot);                    \
  void load_codes(const std::byte* part, const KvCodes& codes, KvPart kind, const std::byte* ahead, std::byte* out); \
  /* peak_LEVEL.cpp */                                                                                               \
  std::uint64_t peak_int8(int rounds);                                                                               \
  std::uint64_t peak_bf16(int rounds);

namespace scalar {
void embed_row(const PackedMatrix& w, int row, float* out);
DALSEGNO_LEVEL_FUNCTIONS
}  // namespace scalar
namespace avx2 {
DALSEGNO_LEVEL_FUNCTIONS
}
namespace avx512 {
DALSEGNO_LEVEL_FUNCTIONS
}
namespace neon {
DALSEGNO_LEVEL_FUNCTIONS
}

#undef DALSEGNO_LEVEL_FUNCTIONS

}  // namespace dalsegno
