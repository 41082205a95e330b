#include "kernels/lanes_neon.hpp"
#include "kernels/levels.hpp"
#include "kernels/load_tile.hpp"
#include "kernels/unroll.hpp"

#define DALSEGNO_INLINE inline __attribute__((always_inline))

namespace dalsegno::neon {
namespace {

constexpr int kMaxRows = 4;
constexpr int kTileBlocks = kTileKeys / kBlockTokens;
constexpr int kVectors = kLanes / kVector;  // of a group of 16 keys or dims
constexpr int kStep = kBlockTokens * 4;     // bytes of one step of K: 16 keys x (a bf16 pair or an f32)

// Groups of 16 lanes a tile of rows works on at once: 12 or 16 accumulators of the 32 registers, enough for four
// units with a latency of 4.
constexpr int groups(int rows) {
  return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

// Stands for blocks the sequence does not have.
alignas(64) constexpr std::byte kZeroBlock[kBlockTokens * kMaxHeadDim * sizeof(float)] = {};

// One step of a chain takes 4 bytes of every lane: a bf16 pair, odd product first, or an f32. The rows' values are
// f32 in both, four to a vector. BFDOT would not do: it rounds to odd, and twice more often.
struct Bf16 {
  static constexpr int kPerStep = 2;
  struct Pair {
    float32x4_t even;
    float32x4_t odd;
  };
  static Pair load(const std::byte* x) {
    const uint32x4_t pairs = vld1q_u32(reinterpret_cast<const std::uint32_t*>(x));
    return {floats(vshlq_n_u32(pairs, 16)), floats(vandq_u32(pairs, vdupq_n_u32(0xffff0000)))};
  }
  template <class Maths, int kAt>
  static float32x4_t step(const Pair& x, float32x4_t y, float32x4_t acc) {
    const float32x4_t odd = Maths::template fma_lane<2 * kAt + 1>(acc, x.odd, y);
    return Maths::template fma_lane<2 * kAt>(odd, x.even, y);
  }
  static float32x4_t probability(float32x4_t p) { return floats(round_to_bf16(p)); }
  static void widen(const std::byte* q, int n, float* out) {
    for (int i = 0; i < n; i += kVector) {
      const uint16x4_t stored = vld1_u16(reinterpret_cast<const std::uint16_t*>(q + 2 * i));
      vst1q_f32(out + i, floats(vshll_n_u16(stored, 16)));
    }
  }
};
struct F32 {
  static constexpr int kPerStep = 1;
  static float32x4_t load(const std::byte* x) { return vld1q_f32(reinterpret_cast<const float*>(x)); }
  template <class Maths, int kAt>
  static float32x4_t step(float32x4_t x, float32x4_t y, float32x4_t acc) {
    return Maths::template fma_lane<kAt>(acc, x, y);
  }
  static float32x4_t probability(float32x4_t p) { return p; }
  static void widen(const std::byte* q, int n, float* out) {
    __builtin_memcpy(out, q, static_cast<std::size_t>(n) * sizeof(float));
  }
};

// What a group of rows needs during one chunk.
struct Work {
  alignas(64) float q[kMaxRows][kMaxHeadDim];
  alignas(64) float p[kMaxRows][kMaxHeadDim];  // [kTileKeys] of it; the stride of q lets one function read both
  alignas(64) float s[kMaxRows][kTileKeys];
};

struct Tile {
  const std::byte* k[kTileBlocks];
  const std::byte* v[kTileBlocks];
};

inline Tile tile_at(const AttentionArgs& args, int key) {
  Tile tile;
  for (int b = 0; b < kTileBlocks; b++) {
    const int block = key / kBlockTokens + b;
    const bool present = block < args.page_count && args.pages[block] != nullptr;
    tile.k[b] = present ? args.pages[block] + args.k_offset : kZeroBlock;
    tile.v[b] = present ? args.pages[block] + args.v_offset : kZeroBlock;
  }
  return tile;
}

// Step kAt of those that the values y[i] hold. x[j]: at that step.
template <class Maths, class Format, int kAt, int kRows, int kGroups>
DALSEGNO_INLINE void step(const std::byte* const (&x)[kGroups], const float32x4_t (&y)[kRows],
                          float32x4_t (&acc)[kRows][kVectors * kGroups]) {
  DALSEGNO_UNROLL for (int j = 0; j < kVectors * kGroups; j++) {
    const auto value = Format::load(x[j / kVectors] + j % kVectors * 16);
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      acc[i][j] = Format::template step<Maths, kAt>(value, y[i], acc[i][j]);
    }
  }
}

// acc[i][j] += x[j][t] * y[i][t] for t in [0, steps); x[j] advances by `stride` bytes per step.
template <class Maths, class Format, int kRows, int kGroups>
DALSEGNO_INLINE void chains(const std::byte* const* x, long stride, const float* y, int steps,
                            float32x4_t (&acc)[kRows][kVectors * kGroups]) {
  constexpr int kSteps = kVector / Format::kPerStep;  // that a vector of y holds
  const std::byte* at[kGroups];
  DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) at[j] = x[j];
  const auto advance = [&]() __attribute__((always_inline)) {
    DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) at[j] += stride;
  };
  for (int t = 0; t < steps; t += kSteps, y += kVector) {
    float32x4_t values[kRows];
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) values[i] = vld1q_f32(y + i * kMaxHeadDim);
    step<Maths, Format, 0>(at, values, acc);
    advance();
    step<Maths, Format, 1>(at, values, acc);
    advance();
    if constexpr (kSteps == 4) {
      step<Maths, Format, 2>(at, values, acc);
      advance();
      step<Maths, Format, 3>(at, values, acc);
      advance();
    }
  }
}

template <class Maths, class Format, int kRows>
void scores(const Tile& tile, int head_dim, Work& work) {
  constexpr int kGroups = groups(kRows);
  for (int b = 0; b < kTileBlocks; b += kGroups) {
    float32x4_t acc[kRows][kVectors * kGroups];
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < kVectors * kGroups; j++) acc[i][j] = vdupq_n_f32(0.0F);
    }
    chains<Maths, Format, kRows, kGroups>(tile.k + b, kStep, work.q[0], head_dim / Format::kPerStep, acc);
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < kVectors * kGroups; j++) {
        vst1q_f32(work.s[i] + kLanes * b + kVector * j, acc[i][j]);
      }
    }
  }
}

// o[d .. d + 16 * kGroups) of each row over the tile's keys.
template <class Maths, class Format, int kRows, int kGroups>
void values(const Tile& tile, int head_dim, int d, const Work& work, const AttentionState* out) {
  float32x4_t acc[kRows][kVectors * kGroups];
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < kVectors * kGroups; j++) acc[i][j] = vld1q_f32(out[i].o + d + kVector * j);
  }
  for (int b = 0; b < kTileBlocks; b++) {
    const std::byte* x[kGroups];
    DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) x[j] = tile.v[b] + (d + kLanes * j) * 4;
    chains<Maths, Format, kRows, kGroups>(x, head_dim * 4L, work.p[0] + kBlockTokens * b,
                                          kBlockTokens / Format::kPerStep, acc);
  }
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < kVectors * kGroups; j++) vst1q_f32(out[i].o + d + kVector * j, acc[i][j]);
  }
}

// The keys [begin, end) of a tile, relative to its first one.
struct Range {
  int begin;
  int end;
};
inline bool none(const Range& keys) {
  return keys.end <= keys.begin;
}
inline Range range(int begin, int end) {
  return {begin < 0 ? 0 : begin, end > kTileKeys ? kTileKeys : end};
}

// The keys of a tile that a row sees.
struct Visible {
  Range last;
  Range kept;
};
inline bool none(const Visible& keys) {
  return none(keys.last) && none(keys.kept);
}

inline Visible visible(const AttentionArgs& args, int row, int tile) {
  const Range last = range(args.begin[row] - tile, args.end[row] - tile);
  if (args.kept_end == nullptr) return {last, {0, 0}};
  return {last, range(args.kept_begin[row] - tile, args.kept_end[row] - tile)};
}

// Which of the four keys from `key` on are in the range, all bits of a lane set.
inline uint32x4_t lanes_of(const Range& keys, int key) {
  return vbicq_u32(first(keys.end - key), first(keys.begin - key));
}

// Scaled scores, -inf where hidden, back into s; returns their maximum.
template <class Maths>
inline float mask_scores(float* s, const Visible& keys, float scale) {
  float32x4_t top = vdupq_n_f32(kMinusInfinity);
  for (int key = 0; key < kTileKeys; key += kVector) {
    const uint32x4_t on = vorrq_u32(lanes_of(keys.last, key), lanes_of(keys.kept, key));
    const float32x4_t scaled = Maths::mul(vld1q_f32(s + key), vdupq_n_f32(scale));
    const float32x4_t x = vbslq_f32(on, scaled, vdupq_n_f32(kMinusInfinity));
    vst1q_f32(s + key, x);
    top = vmaxnmq_f32(top, x);
  }
  return vmaxnmvq_f32(top);
}

// Scores to probabilities; brings the state's m, l and o under the new maximum.
template <class Maths, class Format>
inline void soften(float* s, const Visible& keys, float scale, int head_dim, AttentionState& state, float* p) {
  const float top = mask_scores<Maths>(s, keys, scale);
  const float m = state.m > top ? state.m : top;
  float32x4_t x[kVectors][kTileBlocks];
  DALSEGNO_UNROLL for (int j = 0; j < kVectors * kTileBlocks; j++) {
    const float32x4_t e = exp_negative(vsubq_f32(vld1q_f32(s + kVector * j), vdupq_n_f32(m)));
    vst1q_f32(p + kVector * j, Format::probability(e));
    x[j % kVectors][j / kVectors] = e;
  }
  if (m != state.m) {  // otherwise the factor is exactly 1
    const float fade = exp_negative(state.m - m);
    state.m = m;
    state.l = mul<Maths>(state.l, fade);
    for (int d = 0; d < head_dim; d += kVector) {
      vst1q_f32(state.o + d, Maths::mul(vld1q_f32(state.o + d), vdupq_n_f32(fade)));
    }
  }
  float32x4_t lanes[kVectors];
  DALSEGNO_UNROLL for (int j = 0; j < kVectors; j++) {
    lanes[j] = vaddq_f32(vaddq_f32(x[j][0], x[j][1]), vaddq_f32(x[j][2], x[j][3]));
  }
  state.l = state.l + fold_add(lanes);
}

template <class Maths, class Format, int kRows>
void attend_tile(const AttentionArgs& args, int row0, int key, Work& work) {
  Tile tile = tile_at(args, key);
  if (args.codes != nullptr) load_tile<load_codes>(args, tile_at(args, key + kTileKeys), kTileBlocks, tile);
  AttentionState* out = args.out + row0;
  scores<Maths, Format, kRows>(tile, args.head_dim, work);
  for (int i = 0; i < kRows; i++) {
    const Visible keys = visible(args, row0 + i, key);
    if (none(keys)) {  // p of zero leaves o as it is
      __builtin_memset(work.p[i], 0, sizeof work.p[i]);
    } else {
      soften<Maths, Format>(work.s[i], keys, args.scale, args.head_dim, out[i], work.p[i]);
    }
  }
  constexpr int kGroups = groups(kRows);
  int d = 0;
  for (; d + kLanes * kGroups <= args.head_dim; d += kLanes * kGroups) {
    values<Maths, Format, kRows, kGroups>(tile, args.head_dim, d, work, out);
  }
  for (; d < args.head_dim; d += kLanes) values<Maths, Format, kRows, 1>(tile, args.head_dim, d, work, out);
}

template <class Maths, class Format, int kRows>
void attend_chunk(const AttentionArgs& args, int row0) {
  Work work;
  const auto* q = static_cast<const std::byte*>(args.q);
  for (int i = 0; i < kRows; i++) {
    const std::size_t at = static_cast<std::size_t>(row0 + i) * args.q_stride;
    Format::widen(q + at * static_cast<std::size_t>(4 / Format::kPerStep), args.head_dim, work.q[i]);
    AttentionState& state = args.out[row0 + i];
    state.m = kMinusInfinity;
    state.l = 0.0F;
    for (int d = 0; d < args.head_dim; d++) state.o[d] = 0.0F;
  }
  for (int key = args.chunk * kChunkKeys; key < (args.chunk + 1) * kChunkKeys; key += kTileKeys) {
    bool any = false;
    for (int i = 0; i < kRows; i++) any = any || !none(visible(args, row0 + i, key));
    if (any) attend_tile<Maths, Format, kRows>(args, row0, key, work);
  }
  for (int i = 0; i < kRows; i++) {  // a row of NaN must not look like one that saw no key
    AttentionState& state = args.out[row0 + i];
    if (state.l != state.l) state.m = state.l;
  }
}

// Once more, exactly, where a flushed result may have to be 2^-126: a chunk reads nothing that it writes.
template <class Format, int kRows>
void attend_rows(const AttentionArgs& args, int row0) {
  forget_underflow();
  attend_chunk<Quick, Format, kRows>(args, row0);
  if (underflowed()) attend_chunk<Exact, Format, kRows>(args, row0);
}

template <class Format>
void attend_format(const AttentionArgs& args) {
  using Rows = void (*)(const AttentionArgs&, int);
  static constexpr Rows kByCount[kMaxRows] = {attend_rows<Format, 1>, attend_rows<Format, 2>, attend_rows<Format, 3>,
                                              attend_rows<Format, 4>};
  const int tiles = (args.rows + kMaxRows - 1) / kMaxRows;
  for (int t = 0, row = 0; t < tiles; t++) {  // spread evenly: 6 rows are 3 + 3, not 4 + 2
    const int rows = (args.rows - row) / (tiles - t);
    kByCount[rows - 1](args, row);
    row += rows;
  }
}

}  // namespace

void attend(const AttentionArgs& args) {
  if (args.format == KvFormat::bf16) {
    attend_format<Bf16>(args);
  } else {
    attend_format<F32>(args);
  }
}

void merge(AttentionState& total, const AttentionState& part, int head_dim) {
  if (part.m == kMinusInfinity) return;
  if (total.m == kMinusInfinity) {
    total.m = part.m;
    total.l = part.l;
    __builtin_memcpy(total.o, part.o, static_cast<std::size_t>(head_dim) * sizeof(float));
    return;
  }
  const float m = total.m > part.m ? total.m : part.m;
  const float a = exp_negative(total.m - m);
  const float b = exp_negative(part.m - m);
  total.m = m;
  total.l = fma<Exact>(mul<Exact>(total.l, a), part.l, b);
  for (int d = 0; d < head_dim; d += kVector) {
    const float32x4_t faded = Exact::mul(vld1q_f32(total.o + d), vdupq_n_f32(a));
    vst1q_f32(total.o + d, Exact::fma(faded, vld1q_f32(part.o + d), vdupq_n_f32(b)));
  }
}

void finish(const AttentionState& total, int head_dim, float* out) {
  const float32x4_t inverse = vdupq_n_f32(1.0F / total.l);
  for (int d = 0; d < head_dim; d += kVector) {
    const float32x4_t o = Exact::mul(vld1q_f32(total.o + d), inverse);
    vst1q_f32(out + d, vaddq_f32(o, vdupq_n_f32(0.0F)));
  }
}

}  // namespace dalsegno::neon
