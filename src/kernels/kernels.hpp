#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "dalsegno/result.hpp"
#include "tensor/kv_view.hpp"
#include "tensor/packed.hpp"

namespace dalsegno {

// Pure arithmetic on raw pointers, single-threaded; one table per CPU level, all with the
// same bits (docs/numerics.md). Requires: a FloatState is in force on the calling thread.
// Dispatch is per matrix or attention call, never per row of inner work.

// Activations of several rows, quantised per row and group of 32 of k, in one of two precisions.
// 8 bits: codes [m, k]; sum [m, k/32] words of two int16, the sums of the first 16 codes of the group
// (low half) and of the last 16 (high half).
// 16 bits: codes16 [m, k], four consecutive k stored as k0 k2 k1 k3, so that a pair meets every other
// byte of a quad of weights; sum [m, k/32, 2], the sums of the whole group and of its first 16 codes.
struct QuantRows {
  std::int8_t* codes = nullptr;  // one of these two is set: it is the precision
  std::int16_t* codes16 = nullptr;
  float* scale = nullptr;  // [m, k/32]
  std::int32_t* sum = nullptr;
  float* total = nullptr;  // [m, k/32] the sum of the whole group once more, as formats with minima multiply it
  int k = 0;

  // The rows from `row` on.
  [[nodiscard]] QuantRows from(int row) const {
    const auto values = static_cast<std::ptrdiff_t>(row) * k;
    const std::ptrdiff_t groups = values / kGroup;
    if (codes16 != nullptr) return {nullptr, codes16 + values, scale + groups, sum + 2 * groups, total + groups, k};
    if (codes != nullptr) return {codes + values, nullptr, scale + groups, sum + groups, total + groups, k};
    return {};
  }
};

// Memory that is needed soon: `bytes` from each pages[i * stride] + offset. Pages of K/V, whose layer is read next.
struct Ahead {
  std::byte* const* pages = nullptr;
  int count = 0;
  int stride = 1;
  std::size_t offset = 0;
  std::size_t bytes = 0;
};

// C[m, n] = A[m, k] * W[n, k]^T for the panels [panel_begin, panel_end) of w.
// The result of one output: acc of the contract; then + bias[n] if bias; then, if add,
// c = c + result, else c = result. One rounding each.
struct GemmArgs {
  const PackedMatrix* w = nullptr;
  int panel_begin = 0;
  int panel_end = 0;
  QuantRows quant;           // used where !is_float(w->format)
  const float* x = nullptr;  // [m, k], row stride k; used where is_float(w->format)
  int m = 0;
  float* c = nullptr;           // element (0, 0) of the output; columns beyond n are not touched
  std::size_t c_stride = 0;     // elements between rows of c
  const float* bias = nullptr;  // [n] or nullptr
  bool add = false;
  // May be prefetched while arithmetic keeps memory idle; first the panel that the caller takes next.
  std::span<const std::byte> after = {};
  Ahead ahead = {};
  bool large_l1 = false;  // see has_large_l1(): what is prefetched may go into L1
};

// Running softmax of one query row over some keys. o: [head_dim] f32, 64-byte aligned.
struct AttentionState {
  float m = 0;  // maximum, -inf when no key was seen
  float l = 0;  // sum of exp
  float* o = nullptr;
};

inline constexpr int kMaxHeadDim = 256;
inline constexpr int kTileKeys = 64;    // keys per tile: four blocks
inline constexpr int kChunkKeys = 256;  // keys per chunk; each starts fresh and is merged left to right

// Query rows of one K/V head of one sequence against one absolute chunk of keys.
struct AttentionArgs {
  KvFormat format = KvFormat::bf16;   // or f32
  int head_dim = 0;                   // a multiple of 16, at most kMaxHeadDim
  std::byte* const* pages = nullptr;  // block b at pages[b]; those >= page_count or nullptr count as zeros
  int page_count = 0;
  std::size_t k_offset = 0;  // of this layer and K/V head in a page
  std::size_t v_offset = 0;
  const void* q = nullptr;              // [rows, head_dim], bf16 where K/V are bf16, else f32
  std::size_t q_stride = 0;             // elements between rows
  int rows = 0;                         // any number; the kernel tiles them
  const std::int32_t* begin = nullptr;  // [rows] first visible key (0, or a window's start)
  const std::int32_t* end = nullptr;    // [rows] one past the last visible key
  // [rows] or nullptr: keys [kept_begin, kept_end) are visible too. Requires: kept_end <= end, where it is not empty.
  const std::int32_t* kept_begin = nullptr;
  const std::int32_t* kept_end = nullptr;
  int chunk = 0;  // keys [256*chunk, 256*chunk + 256)
  float scale = 0;
  AttentionState* out = nullptr;  // [rows]; overwritten; m = -inf where nothing is visible
  // Where K/V are codes, `format` is bf16 and a tile is decoded when it is reached, as many times as the kernel tiles
  // the rows. loaded: room for K and V of a tile in bf16, 64-byte aligned, which a level may leave alone.
  const KvCodes* codes = nullptr;
  std::byte* loaded = nullptr;
  // What the caller attends to afterwards, or nullptr: its first keys (pages, offsets, chunk) may be prefetched.
  const AttentionArgs* next = nullptr;
  bool large_l1 = false;  // as in GemmArgs
};

// The f32 sums of peak_bf16 count exactly up to 2^24, by at most 2 per round.
inline constexpr int kMostPeakRounds = 1 << 20;

inline constexpr float kGeluLinear = 0x1.988454p+0F;  // 2 * sqrt(2 / pi)
inline constexpr float kGeluCube = 0x1.2444f2p-4F;    // 0.044715 of it

struct Kernels {
  const char* name;

  // Dequantises row `row` of a packed matrix into out [k]: fma(float(code), scale, min).
  void (*embed_row)(const PackedMatrix& w, int row, float* out);
  void (*gemm)(const GemmArgs& args);
  // One row x [k] into row `row` of out, in the precision that out has. False: not finite, zeros are stored.
  bool (*quantise)(const float* x, int row, const QuantRows& out);

  // out = x * (1 / sqrt(sum(x^2) / n + eps)) * w, left to right. out may be x.
  void (*rms_norm)(const float* x, const float* w, int n, float eps, float* out);
  void (*scale)(float* x, int n, float factor);
  void (*add)(float* x, const float* y, int n);  // x = x + y
  // silu(g) = (g >= 0 ? g : g * e) / (1 + e) with e = exp(-|g|); out = silu(gate) * up. out may be gate.
  void (*silu_mul)(const float* gate, const float* up, int n, float* out);
  // The tanh form of GELU: 0.5 * g * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 g^3))) is g / (1 + exp(-z)) with
  // z = g * fma(g * g, kGeluCube, kGeluLinear); computed as silu is: (g >= 0 ? g : g * e) / (1 + e) with e = exp(-|z|).
  void (*gelu_mul)(const float* gate, const float* up, int n, float* out);

  // Rotates the first rope_dim values of one head in place; cos, sin: [rope_dim / 2].
  // Pairs are (2i, 2i+1) if interleaved, else (i, i + rope_dim/2):
  // a' = fma(a, c, -(b*s)), b' = fma(a, s, b*c).
  void (*rope)(float* x, int rope_dim, const float* cos, const float* sin, bool interleaved);
  // The unnormalised Walsh-Hadamard transform of each run of hadamard_size(n) values of x [n], times `factor`.
  void (*hadamard)(float* x, int n, float factor);
  // Rounds q [n] to the format attention reads.
  void (*store_q)(const float* q, int n, KvFormat format, void* out);
  // Write one token's k or v [head_dim] into its slot (0..15) of a block part.
  // False: not finite after rounding to the format; zeros are stored.
  bool (*store_k)(const float* k, int head_dim, KvFormat format, std::byte* part, int slot);
  bool (*store_v)(const float* v, int head_dim, KvFormat format, std::byte* part, int slot);
  // As store_k and store_v where K/V are codes. False: not finite in bf16, or 2^127 and more; zeros are stored.
  bool (*store_codes)(const float* x, const KvCodes& codes, KvPart kind, std::byte* part, int slot);
  // The values of a part of codes, in bf16's layout. ahead: the part needed next, may be prefetched, or nullptr.
  void (*load_codes)(const std::byte* part, const KvCodes& codes, KvPart kind, const std::byte* ahead, std::byte* out);

  void (*attend)(const AttentionArgs& args);
  // total = total merged with part (the next chunk to the right); total.m == -inf: a copy.
  void (*merge)(AttentionState& total, const AttentionState& part, int head_dim);
  // out [head_dim] = o * (1 / l) + 0
  void (*finish)(const AttentionState& total, int head_dim, float* out);

  // For samplers: out[i] = exp(x[i] - shift) for x[i] <= shift; the sum in virtual lanes.
  float (*exp_sum)(const float* x, int n, float shift, float* out);
  // False if any of x [n] is NaN or infinite.
  bool (*all_finite)(const float* x, int n);

  // What the level's instructions can do at most: `rounds` rounds of independent multiply-adds in registers, as
  // gemm has them (int8) and attend (bf16). The result is the operations done, two per multiply-add, as the
  // sums themselves counted them. Requires: rounds <= kMostPeakRounds.
  std::uint64_t (*peak_int8)(int rounds);
  std::uint64_t (*peak_bf16)(int rounds);
};

// The levels this machine can run whose self-check passed, lowest first. Empty only if scalar, which
// is the specification, fails against its stored constants: then chosen_kernels() is an error.
[[nodiscard]] std::span<const Kernels* const> available_kernels();
// Whether the L1 of a core holds 48 KiB of data or more, as far as the system tells.
[[nodiscard]] bool has_large_l1();
// One sentence for each level that was dropped because it gave other bits than scalar.
[[nodiscard]] std::span<const std::string> kernel_warnings();
// The level in force: the highest available one, or what DALSEGNO_CPU names (read at each call).
// Errors: invalid_argument for a name that is unknown or not available here; unsupported if scalar fails.
Result<const Kernels*> chosen_kernels();

}  // namespace dalsegno
