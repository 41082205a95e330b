#include "kernels/lanes_avx512.hpp"
#include "kernels/levels.hpp"

#define DALSEGNO_UNROLL _Pragma("GCC unroll 16")

namespace dalsegno::avx512 {
namespace {

// 6 rows x 4 vectors of 16 keys or dims: 24 accumulators and 4 loaded vectors of the 32 registers.
constexpr int kMaxRows = 6;
constexpr int kWidth = 4;
constexpr int kTileBlocks = kTileKeys / kBlockTokens;
constexpr int kStep = kBlockTokens * 4;  // bytes of one step of K: 16 keys x (a bf16 pair or an f32)

// Stands for blocks the sequence does not have.
alignas(64) constexpr std::byte kZeroBlock[kBlockTokens * kMaxHeadDim * sizeof(float)] = {};

// One step of a chain takes 4 bytes of every lane: a bf16 pair (odd product first) or an f32.
struct Bf16 {
  static constexpr int kPerStep = 2;
  static __m512 step(__m512i x, std::uint32_t y, __m512 acc) {
    return _mm512_dpbf16_ps(acc, as_bf16(_mm512_set1_epi32(static_cast<int>(y))), as_bf16(x));
  }
  static void store(std::uint32_t* p, int first_key, __m512 x) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p + first_key / 2), to_bf16(x));
  }
};
struct F32 {
  static constexpr int kPerStep = 1;
  static __m512 step(__m512i x, std::uint32_t y, __m512 acc) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(y))), acc);
  }
  static void store(std::uint32_t* p, int first_key, __m512 x) { _mm512_store_ps(p + first_key, x); }
};

// What a group of rows needs during one chunk, in steps of 4 bytes.
struct Work {
  alignas(64) std::uint32_t q[kMaxRows][kMaxHeadDim];
  alignas(64) std::uint32_t p[kMaxRows][kMaxHeadDim];  // [kTileKeys] of it; the stride of q lets one function read both
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
    const bool present = block < args.page_count;
    tile.k[b] = present ? args.pages[block] + args.k_offset : kZeroBlock;
    tile.v[b] = present ? args.pages[block] + args.v_offset : kZeroBlock;
  }
  return tile;
}

// acc[i][j] += x[j][t] * y[i][t] for t in [0, steps); x[j] advances by `stride` bytes per step.
// ahead[j]: what will be read a tile later goes into L2; into L1 it would push out this tile.
template <class Format, int kRows, int kColumns>
inline __attribute__((always_inline)) void chains(const std::byte* const* x, const std::byte* const* ahead, long stride,
                                                  const std::uint32_t* y, int steps, __m512 (&acc)[kRows][kColumns]) {
  for (int t = 0; t < steps; t++) {
    __m512i loaded[kColumns];
    DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) {
      loaded[j] = _mm512_loadu_si512(x[j] + t * stride);
      _mm_prefetch(ahead[j] + t * stride, _MM_HINT_T1);
    }
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) {
        acc[i][j] = Format::step(loaded[j], y[i * kMaxHeadDim + t], acc[i][j]);
      }
    }
  }
}

template <class Format, int kRows>
void scores(const Tile& tile, const Tile& next, int head_dim, Work& work) {
  __m512 acc[kRows][kWidth];
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < kWidth; j++) acc[i][j] = _mm512_setzero_ps();
  }
  chains<Format, kRows, kWidth>(tile.k, next.k, kStep, work.q[0], head_dim / Format::kPerStep, acc);
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < kWidth; j++) _mm512_store_ps(work.s[i] + kLanes * j, acc[i][j]);
  }
}

// o[d .. d + 16 * kColumns) of each row over the tile's keys.
template <class Format, int kRows, int kColumns>
void values(const Tile& tile, const Tile& next, int head_dim, int d, const Work& work, const AttentionState* out) {
  __m512 acc[kRows][kColumns];
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) acc[i][j] = _mm512_load_ps(out[i].o + d + kLanes * j);
  }
  constexpr int kSteps = kBlockTokens / Format::kPerStep;
  for (int b = 0; b < kTileBlocks; b++) {
    const std::byte* x[kColumns];
    const std::byte* ahead[kColumns];
    DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) {
      x[j] = tile.v[b] + (d + kLanes * j) * 4;
      ahead[j] = next.v[b] + (d + kLanes * j) * 4;
    }
    chains<Format, kRows, kColumns>(x, ahead, head_dim * 4L, work.p[0] + kSteps * b, kSteps, acc);
  }
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) _mm512_store_ps(out[i].o + d + kLanes * j, acc[i][j]);
  }
}

// The visible keys [begin, end) of a row in a tile, one bit each.
inline std::uint64_t visible(const AttentionArgs& args, int row, int tile) {
  const int begin = args.begin[row] - tile;
  const int end = args.end[row] - tile;
  if (begin >= kTileKeys || end <= 0 || end <= begin) return 0;
  const std::uint64_t below = end >= kTileKeys ? ~0ULL : (1ULL << end) - 1;
  return begin <= 0 ? below : below & ~((1ULL << begin) - 1);
}

// Scores to probabilities; brings the state's m, l and o under the new maximum.
template <class Format>
inline void soften(const float* s, std::uint64_t keys, float scale, int head_dim, AttentionState& state,
                   std::uint32_t* p) {
  __m512 x[kWidth];
  DALSEGNO_UNROLL for (int j = 0; j < kWidth; j++) {
    const auto on = static_cast<__mmask16>(keys >> (kLanes * j));
    const __m512 hidden = _mm512_set1_ps(kMinusInfinity);
    x[j] = _mm512_mask_mul_ps(hidden, on, _mm512_load_ps(s + kLanes * j), _mm512_set1_ps(scale));
  }
  const float top = fold_max(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3])));
  const float m = state.m > top ? state.m : top;
  DALSEGNO_UNROLL for (int j = 0; j < kWidth; j++) {
    x[j] = exp_negative(_mm512_sub_ps(x[j], _mm512_set1_ps(m)));
    Format::store(p, kLanes * j, x[j]);
  }
  if (m != state.m) {  // otherwise the factor is exactly 1
    const float fade = exp_negative(state.m - m);
    state.m = m;
    state.l = state.l * fade;
    for (int d = 0; d < head_dim; d += kLanes) {
      _mm512_store_ps(state.o + d, _mm512_mul_ps(_mm512_load_ps(state.o + d), _mm512_set1_ps(fade)));
    }
  }
  state.l = state.l + fold_add(_mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3])));
}

template <class Format, int kRows>
void attend_tile(const AttentionArgs& args, int row0, int key, Work& work) {
  const Tile tile = tile_at(args, key);
  const Tile next = tile_at(args, key + kTileKeys);
  AttentionState* out = args.out + row0;
  scores<Format, kRows>(tile, next, args.head_dim, work);
  for (int i = 0; i < kRows; i++) {
    const std::uint64_t keys = visible(args, row0 + i, key);
    if (keys == 0) {  // p of zero leaves o as it is
      __builtin_memset(work.p[i], 0, sizeof work.p[i]);
    } else {
      soften<Format>(work.s[i], keys, args.scale, args.head_dim, out[i], work.p[i]);
    }
  }
  int d = 0;
  for (; d + kLanes * kWidth <= args.head_dim; d += kLanes * kWidth) {
    values<Format, kRows, kWidth>(tile, next, args.head_dim, d, work, out);
  }
  for (; d < args.head_dim; d += kLanes) values<Format, kRows, 1>(tile, next, args.head_dim, d, work, out);
}

template <class Format, int kRows>
void attend_rows(const AttentionArgs& args, int row0) {
  Work work;
  constexpr auto kBytes = static_cast<std::size_t>(4 / Format::kPerStep);
  const auto* q = static_cast<const std::byte*>(args.q);
  for (int i = 0; i < kRows; i++) {
    const std::size_t at = static_cast<std::size_t>(row0 + i) * args.q_stride;
    __builtin_memcpy(work.q[i], q + at * kBytes, static_cast<std::size_t>(args.head_dim) * kBytes);
    AttentionState& state = args.out[row0 + i];
    state.m = kMinusInfinity;
    state.l = 0.0F;
    for (int d = 0; d < args.head_dim; d += kLanes) _mm512_store_ps(state.o + d, _mm512_setzero_ps());
  }
  for (int key = args.chunk * kChunkKeys; key < (args.chunk + 1) * kChunkKeys; key += kTileKeys) {
    bool any = false;
    for (int i = 0; i < kRows; i++) any = any || visible(args, row0 + i, key) != 0;
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
                                              attend_rows<Format, 4>, attend_rows<Format, 5>, attend_rows<Format, 6>};
  const int groups = (args.rows + kMaxRows - 1) / kMaxRows;
  for (int g = 0, row = 0; g < groups; g++) {  // spread evenly: 8 rows are 4 + 4, not 6 + 2
    const int rows = (args.rows - row) / (groups - g);
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
  for (int d = 0; d < head_dim; d += kLanes) {
    const __m512 faded = _mm512_mul_ps(_mm512_load_ps(total.o + d), _mm512_set1_ps(a));
    _mm512_store_ps(total.o + d, _mm512_fmadd_ps(_mm512_load_ps(part.o + d), _mm512_set1_ps(b), faded));
  }
}

void finish(const AttentionState& total, int head_dim, float* out) {
  const __m512 inverse = _mm512_set1_ps(1.0F / total.l);
  for (int d = 0; d < head_dim; d += kLanes) {
    const __m512 o = _mm512_mul_ps(_mm512_load_ps(total.o + d), inverse);
    _mm512_storeu_ps(out + d, _mm512_add_ps(o, _mm512_setzero_ps()));
  }
}

}  // namespace dalsegno::avx512
