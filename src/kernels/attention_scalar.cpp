#include "kernels/lanes_scalar.hpp"
#include "kernels/levels.hpp"

namespace dalsegno::scalar {
namespace {

constexpr int kRows = 16;  // rows that share one conversion of a block; any number gives the same bits
constexpr int kTileBlocks = kTileKeys / kBlockTokens;

// K/V in bf16: values in pairs, the odd one first, as vdpbf16ps takes them. The product of two bf16 has 16
// significant bits, so it is exact in double, and so is every sum with a 24-bit value whose rounding to float
// could depend on it: one rounding, the bits of fma, at the speed of the compiler's vectors.
struct Bf16 {
  using Stored = std::uint16_t;
  using Wide = double;
  static constexpr int kOddFirst = 1;
  static Wide widen(Stored value) { return static_cast<double>(from_bf16(value)); }
  static float probability(float p) { return from_bf16(to_bf16(p)); }
  static float step(Wide a, Wide b, float acc) { return narrow(a * b + static_cast<double>(acc)); }
  // K [head_dim/2][16][2], V [8][head_dim][2]
  static int k_index(int d, int key) { return (d / 2 * kBlockTokens + key) * 2 + d % 2; }
  static int v_index(int d, int key, int head_dim) { return (key / 2 * head_dim + d) * 2 + key % 2; }
};

struct F32 {
  using Stored = float;
  using Wide = float;
  static constexpr int kOddFirst = 0;
  static Wide widen(Stored value) { return value; }
  static float probability(float p) { return p; }
  static float step(Wide a, Wide b, float acc) { return fma(a, b, acc); }
  static int k_index(int d, int key) { return d * kBlockTokens + key; }
  static int v_index(int d, int key, int head_dim) { return key * head_dim + d; }
};

// What a group of rows needs during one chunk. keys: [head_dim][16] or [16][head_dim] of one block, widened.
template <class Format>
struct Work {
  typename Format::Wide q[kRows][kMaxHeadDim];
  typename Format::Wide keys[kBlockTokens * kMaxHeadDim];
  typename Format::Wide p[kRows][kTileKeys];
  float s[kRows][kTileKeys];
};

// acc[j] += x[t][j] * y[t] for t in [0, steps), in the format's order. x: [steps][stride].
template <class Format>
void chain(const typename Format::Wide* x, int stride, const typename Format::Wide* y, int steps, float* acc) {
  float sum[kLanes];
  std::memcpy(sum, acc, sizeof sum);
  for (int i = 0; i < steps; i++) {
    const int t = i ^ Format::kOddFirst;
    const auto* row = x + t * stride;
    for (int j = 0; j < kLanes; j++) sum[j] = Format::step(y[t], row[j], sum[j]);
  }
  std::memcpy(acc, sum, sizeof sum);
}

// The block's values as stored, or nullptr where the sequence has no such block (its keys count as zeros).
template <class Format>
const typename Format::Stored* block_part(const AttentionArgs& args, int block, KvPart kind) {
  if (block >= args.page_count || args.pages[block] == nullptr) return nullptr;
  const std::size_t offset = kind == KvPart::keys ? args.k_offset : args.v_offset;
  if (args.codes != nullptr) {
    load_codes(args.pages[block] + offset, *args.codes, kind, nullptr, args.loaded);
    return reinterpret_cast<const typename Format::Stored*>(args.loaded);
  }
  return reinterpret_cast<const typename Format::Stored*>(args.pages[block] + offset);
}

template <class Format>
void widen_k(const typename Format::Stored* block, int head_dim, typename Format::Wide* out) {
  for (int d = 0; d < head_dim; d++) {
    for (int key = 0; key < kBlockTokens; key++) {
      out[d * kBlockTokens + key] = block == nullptr ? 0 : Format::widen(block[Format::k_index(d, key)]);
    }
  }
}

template <class Format>
void widen_v(const typename Format::Stored* block, int head_dim, typename Format::Wide* out) {
  for (int key = 0; key < kBlockTokens; key++) {
    for (int d = 0; d < head_dim; d++) {
      out[key * head_dim + d] = block == nullptr ? 0 : Format::widen(block[Format::v_index(d, key, head_dim)]);
    }
  }
}

// The keys [begin, end) of a tile, relative to its first one.
struct Range {
  int begin;
  int end;
  [[nodiscard]] bool none() const { return end <= begin; }
  [[nodiscard]] bool has(int key) const { return key >= begin && key < end; }
};

Range range(int begin, int end) {
  return {begin < 0 ? 0 : begin, end > kTileKeys ? kTileKeys : end};
}

// The keys of a tile that a row sees.
struct Visible {
  Range last;
  Range kept;
  [[nodiscard]] bool none() const { return last.none() && kept.none(); }
  [[nodiscard]] bool has(int key) const { return last.has(key) || kept.has(key); }
};

Visible visible(const AttentionArgs& args, int row, int tile) {
  const Range last = range(args.begin[row] - tile, args.end[row] - tile);
  if (args.kept_end == nullptr) return {last, {0, 0}};
  return {last, range(args.kept_begin[row] - tile, args.kept_end[row] - tile)};
}

// Scores to probabilities; brings the state's m, l and o under the new maximum.
template <class Format>
void soften(float* s, Visible keys, float scale, int head_dim, AttentionState& state, typename Format::Wide* p) {
  float top = kMinusInfinity;
  for (int key = 0; key < kTileKeys; key++) {
    s[key] = keys.has(key) ? mul(s[key], scale) : kMinusInfinity;
    top = top > s[key] ? top : s[key];
  }
  const float m = state.m > top ? state.m : top;
  for (int key = 0; key < kTileKeys; key++) {
    s[key] = exp_negative(s[key] - m);
    p[key] = static_cast<typename Format::Wide>(Format::probability(s[key]));
  }
  float lanes[kLanes];
  for (int j = 0; j < kLanes; j++) lanes[j] = (s[j] + s[j + 16]) + (s[j + 32] + s[j + 48]);
  const float fade = exp_negative(state.m - m);
  state.l = mul(state.l, fade);
  state.l = state.l + fold(lanes);
  for (int d = 0; d < head_dim; d++) state.o[d] = mul(state.o[d], fade);
  state.m = m;
}

template <class Format>
void attend_tile(const AttentionArgs& args, int row0, int rows, int tile, Work<Format>& work) {
  const int dim = args.head_dim;
  for (int b = 0; b < kTileBlocks; b++) {
    widen_k<Format>(block_part<Format>(args, tile / kBlockTokens + b, KvPart::keys), dim, work.keys);
    for (int i = 0; i < rows; i++) {
      float* s = work.s[i] + b * kBlockTokens;
      for (int key = 0; key < kBlockTokens; key++) s[key] = 0.0F;
      if (!visible(args, row0 + i, tile).none()) chain<Format>(work.keys, kBlockTokens, work.q[i], dim, s);
    }
  }
  for (int i = 0; i < rows; i++) {
    const Visible keys = visible(args, row0 + i, tile);
    if (!keys.none()) soften<Format>(work.s[i], keys, args.scale, dim, args.out[row0 + i], work.p[i]);
  }
  for (int b = 0; b < kTileBlocks; b++) {
    widen_v<Format>(block_part<Format>(args, tile / kBlockTokens + b, KvPart::values), dim, work.keys);
    for (int i = 0; i < rows; i++) {
      if (visible(args, row0 + i, tile).none()) continue;
      for (int d = 0; d < dim; d += kLanes) {
        chain<Format>(work.keys + d, dim, work.p[i] + b * kBlockTokens, kBlockTokens, args.out[row0 + i].o + d);
      }
    }
  }
}

template <class Format>
void attend_rows(const AttentionArgs& args, int row0, int rows) {
  Work<Format> work;
  const auto* q = static_cast<const typename Format::Stored*>(args.q);
  for (int i = 0; i < rows; i++) {
    AttentionState& state = args.out[row0 + i];
    state.m = kMinusInfinity;
    state.l = 0.0F;
    for (int d = 0; d < args.head_dim; d++) {
      state.o[d] = 0.0F;
      work.q[i][d] = Format::widen(q[static_cast<std::size_t>(row0 + i) * args.q_stride + static_cast<std::size_t>(d)]);
    }
  }
  for (int tile = args.chunk * kChunkKeys; tile < (args.chunk + 1) * kChunkKeys; tile += kTileKeys) {
    bool any = false;
    for (int i = 0; i < rows; i++) any = any || !visible(args, row0 + i, tile).none();
    if (any) attend_tile<Format>(args, row0, rows, tile, work);
  }
  for (int i = 0; i < rows; i++) {  // a row of NaN must not look like one that saw no key
    AttentionState& state = args.out[row0 + i];
    if (state.l != state.l) state.m = state.l;
  }
}

}  // namespace

void attend(const AttentionArgs& args) {
  for (int row = 0; row < args.rows; row += kRows) {
    const int rows = args.rows - row < kRows ? args.rows - row : kRows;
    if (args.format == KvFormat::bf16) {
      attend_rows<Bf16>(args, row, rows);
    } else {
      attend_rows<F32>(args, row, rows);
    }
  }
}

void merge(AttentionState& total, const AttentionState& part, int head_dim) {
  if (part.m == kMinusInfinity) return;
  if (total.m == kMinusInfinity) {
    total.m = part.m;
    total.l = part.l;
    std::memcpy(total.o, part.o, static_cast<std::size_t>(head_dim) * sizeof(float));
    return;
  }
  const float m = total.m > part.m ? total.m : part.m;
  const float a = exp_negative(total.m - m);
  const float b = exp_negative(part.m - m);
  total.l = fma(part.l, b, mul(total.l, a));
  for (int d = 0; d < head_dim; d++) total.o[d] = fma(part.o[d], b, mul(total.o[d], a));
  total.m = m;
}

void finish(const AttentionState& total, int head_dim, float* out) {
  const float inverse = 1.0F / total.l;
  for (int d = 0; d < head_dim; d++) out[d] = mul(total.o[d], inverse) + 0.0F;
}

}  // namespace dalsegno::scalar
