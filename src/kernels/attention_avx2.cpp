#include "kernels/lanes_avx2.hpp"
#include "kernels/levels.hpp"
#include "kernels/load_tile.hpp"

#define DALSEGNO_UNROLL _Pragma("GCC unroll 16")

namespace dalsegno::avx2 {
namespace {

constexpr int kMaxRows = 4;
constexpr int kTileBlocks = kTileKeys / kBlockTokens;
constexpr int kStep = kBlockTokens * 4;  // bytes of one step of K: 16 keys x (a bf16 pair or an f32)

// Groups of 16 lanes (two vectors) a tile of rows works on at once. Two fma take 8 cycles one after the other
// and two start per cycle, so about 8 accumulators keep the units busy; the registers hold no more beside
// the loaded pair.
constexpr int groups(int rows) {
  return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

// Stands for blocks the sequence does not have.
alignas(64) constexpr std::byte kZeroBlock[kBlockTokens * kMaxHeadDim * sizeof(float)] = {};

// One step of a chain takes 4 bytes of every lane: a bf16 pair, odd product first as vdpbf16ps does, or an f32.
// y is f32 in both: the rows' values were widened once.
struct Bf16 {
  static constexpr int kPerStep = 2;
  struct Pair {
    __m256 even;
    __m256 odd;
  };
  static Pair load(const std::byte* x) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return {floats(_mm256_slli_epi32(pairs, 16)),
            floats(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000U))))};
  }
  static Pair broadcast(const float* y) { return {_mm256_broadcast_ss(y), _mm256_broadcast_ss(y + 1)}; }
  static __m256 step(const Pair& x, const Pair& y, __m256 acc) {
    return _mm256_fmadd_ps(x.even, y.even, _mm256_fmadd_ps(x.odd, y.odd, acc));
  }
  static __m256 probability(__m256 p) { return floats(round_to_bf16(p)); }
  static void widen(const std::byte* q, int n, float* out) {
    for (int i = 0; i < n; i += kVector) {
      const __m128i stored = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + 2 * i));
      _mm256_store_ps(out + i, floats(_mm256_slli_epi32(_mm256_cvtepu16_epi32(stored), 16)));
    }
  }
};
struct F32 {
  static constexpr int kPerStep = 1;
  static __m256 load(const std::byte* x) { return _mm256_loadu_ps(reinterpret_cast<const float*>(x)); }
  static __m256 broadcast(const float* y) { return _mm256_broadcast_ss(y); }
  static __m256 step(__m256 x, __m256 y, __m256 acc) { return _mm256_fmadd_ps(x, y, acc); }
  static __m256 probability(__m256 p) { return p; }
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

// acc[i][2j], [2j+1] += x[j][t] * y[i][t] for t in [0, steps); x[j] advances by `stride` bytes per step.
// ahead[j]: what will be read a tile later goes into L2; into L1 it would push out this tile.
template <class Format, int kRows, int kGroups>
inline __attribute__((always_inline)) void chains(const std::byte* const* x, const std::byte* const* ahead, long stride,
                                                  const float* y, int steps, __m256 (&acc)[kRows][2 * kGroups]) {
  for (int t = 0; t < steps; t++) {
    DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
      const auto low = Format::load(x[j] + t * stride);
      const auto high = Format::load(x[j] + t * stride + kVector * 4);
      _mm_prefetch(ahead[j] + t * stride, _MM_HINT_T1);
      DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
        const auto value = Format::broadcast(y + i * kMaxHeadDim + t * Format::kPerStep);
        acc[i][2 * j] = Format::step(low, value, acc[i][2 * j]);
        acc[i][2 * j + 1] = Format::step(high, value, acc[i][2 * j + 1]);
      }
    }
  }
}

template <class Format, int kRows>
void scores(const Tile& tile, const Tile& next, int head_dim, Work& work) {
  constexpr int kGroups = groups(kRows);
  for (int b = 0; b < kTileBlocks; b += kGroups) {
    __m256 acc[kRows][2 * kGroups];
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < 2 * kGroups; j++) acc[i][j] = _mm256_setzero_ps();
    }
    chains<Format, kRows, kGroups>(tile.k + b, next.k + b, kStep, work.q[0], head_dim / Format::kPerStep, acc);
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < 2 * kGroups; j++) {
        _mm256_store_ps(work.s[i] + kLanes * b + kVector * j, acc[i][j]);
      }
    }
  }
}

// o[d .. d + 16 * kGroups) of each row over the tile's keys.
template <class Format, int kRows, int kGroups>
void values(const Tile& tile, const Tile& next, int head_dim, int d, const Work& work, const AttentionState* out) {
  __m256 acc[kRows][2 * kGroups];
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < 2 * kGroups; j++) acc[i][j] = _mm256_load_ps(out[i].o + d + kVector * j);
  }
  for (int b = 0; b < kTileBlocks; b++) {
    const std::byte* x[kGroups];
    const std::byte* ahead[kGroups];
    DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
      x[j] = tile.v[b] + (d + kLanes * j) * 4;
      ahead[j] = next.v[b] + (d + kLanes * j) * 4;
    }
    chains<Format, kRows, kGroups>(x, ahead, head_dim * 4L, work.p[0] + kBlockTokens * b,
                                   kBlockTokens / Format::kPerStep, acc);
  }
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < 2 * kGroups; j++) _mm256_store_ps(out[i].o + d + kVector * j, acc[i][j]);
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

// Which of the eight keys from `key` on are in the range, all bits of a lane set.
inline __m256i lanes_of(const Range& keys, int key) {
  return _mm256_andnot_si256(first(keys.begin - key), first(keys.end - key));
}

// Scaled scores, -inf where hidden, back into s; returns their maximum.
inline float mask_scores(float* s, const Visible& keys, float scale) {
  __m256 top = _mm256_set1_ps(kMinusInfinity);
  for (int key = 0; key < kTileKeys; key += kVector) {
    const __m256i on = _mm256_or_si256(lanes_of(keys.last, key), lanes_of(keys.kept, key));
    const __m256 scaled = _mm256_mul_ps(_mm256_load_ps(s + key), _mm256_set1_ps(scale));
    const __m256 x = _mm256_blendv_ps(_mm256_set1_ps(kMinusInfinity), scaled, floats(on));
    _mm256_store_ps(s + key, x);
    top = _mm256_max_ps(top, x);
  }
  return fold_max(top);
}

// Scores to probabilities; brings the state's m, l and o under the new maximum.
template <class Format>
inline void soften(float* s, const Visible& keys, float scale, int head_dim, AttentionState& state, float* p) {
  const float top = mask_scores(s, keys, scale);
  const float m = state.m > top ? state.m : top;
  __m256 sum[2][4];
  DALSEGNO_UNROLL for (int j = 0; j < 2 * kTileBlocks; j++) {
    const __m256 x = exp_negative(_mm256_sub_ps(_mm256_load_ps(s + kVector * j), _mm256_set1_ps(m)));
    _mm256_store_ps(p + kVector * j, Format::probability(x));
    sum[j % 2][j / 2] = x;
  }
  if (m != state.m) {  // otherwise the factor is exactly 1
    const float fade = exp_negative(state.m - m);
    state.m = m;
    state.l = state.l * fade;
    for (int d = 0; d < head_dim; d += kVector) {
      _mm256_store_ps(state.o + d, _mm256_mul_ps(_mm256_load_ps(state.o + d), _mm256_set1_ps(fade)));
    }
  }
  __m256 lanes[2];
  DALSEGNO_UNROLL for (int j = 0; j < 2; j++) {
    lanes[j] = _mm256_add_ps(_mm256_add_ps(sum[j][0], sum[j][1]), _mm256_add_ps(sum[j][2], sum[j][3]));
  }
  state.l = state.l + fold_add(lanes[0], lanes[1]);
}

template <class Format, int kRows>
void attend_tile(const AttentionArgs& args, int row0, int key, Work& work) {
  Tile tile = tile_at(args, key);
  Tile next = tile_at(args, key + kTileKeys);
  if (args.codes != nullptr) {
    load_tile<load_codes>(args, next, kTileBlocks, tile);
    next = tile;
  }
  AttentionState* out = args.out + row0;
  scores<Format, kRows>(tile, next, args.head_dim, work);
  for (int i = 0; i < kRows; i++) {
    const Visible keys = visible(args, row0 + i, key);
    if (none(keys)) {  // p of zero leaves o as it is
      __builtin_memset(work.p[i], 0, sizeof work.p[i]);
    } else {
      soften<Format>(work.s[i], keys, args.scale, args.head_dim, out[i], work.p[i]);
    }
  }
  constexpr int kGroups = groups(kRows);
  int d = 0;
  for (; d + kLanes * kGroups <= args.head_dim; d += kLanes * kGroups) {
    values<Format, kRows, kGroups>(tile, next, args.head_dim, d, work, out);
  }
  for (; d < args.head_dim; d += kLanes) values<Format, kRows, 1>(tile, next, args.head_dim, d, work, out);
}

template <class Format, int kRows>
void attend_rows(const AttentionArgs& args, int row0) {
  Work work;
  const auto* q = static_cast<const std::byte*>(args.q);
  for (int i = 0; i < kRows; i++) {
    const std::size_t at = static_cast<std::size_t>(row0 + i) * args.q_stride;
    Format::widen(q + at * static_cast<std::size_t>(4 / Format::kPerStep), args.head_dim, work.q[i]);
    AttentionState& state = args.out[row0 + i];
    state.m = kMinusInfinity;
    state.l = 0.0F;
    for (int d = 0; d < args.head_dim; d += kVector) _mm256_store_ps(state.o + d, _mm256_setzero_ps());
  }
  for (int key = args.chunk * kChunkKeys; key < (args.chunk + 1) * kChunkKeys; key += kTileKeys) {
    bool any = false;
    for (int i = 0; i < kRows; i++) any = any || !none(visible(args, row0 + i, key));
    if (any) attend_tile<Format, kRows>(args, row0, key, work);
  }
  for (int i = 0; i < kRows; i++) {  // a row of NaN must not look like one that saw no key
    AttentionState& state = args.out[row0 + i];
    if (state.l != state.l) state.m = state.l;
  }
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
  total.l = __builtin_fmaf(part.l, b, total.l * a);
  for (int d = 0; d < head_dim; d += kVector) {
    const __m256 faded = _mm256_mul_ps(_mm256_load_ps(total.o + d), _mm256_set1_ps(a));
    _mm256_store_ps(total.o + d, _mm256_fmadd_ps(_mm256_load_ps(part.o + d), _mm256_set1_ps(b), faded));
  }
}

void finish(const AttentionState& total, int head_dim, float* out) {
  const __m256 inverse = _mm256_set1_ps(1.0F / total.l);
  for (int d = 0; d < head_dim; d += kVector) {
    const __m256 o = _mm256_mul_ps(_mm256_load_ps(total.o + d), inverse);
    _mm256_storeu_ps(out + d, _mm256_add_ps(o, _mm256_setzero_ps()));
  }
}

}  // namespace dalsegno::avx2
