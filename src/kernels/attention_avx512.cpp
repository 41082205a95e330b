#include <type_traits>

#include "kernels/kv_codes_avx512.hpp"
#include "kernels/lanes_avx512.hpp"
#include "kernels/levels.hpp"
#include "kernels/unroll.hpp"

namespace dalsegno::avx512 {
namespace {

// 6 rows x 4 vectors of 16 keys or dims: 24 accumulators and 4 loaded vectors of the 32 registers.
constexpr int kMaxRows = 6;
constexpr int kWidth = 4;
constexpr int kTileBlocks = kTileKeys / kBlockTokens;
constexpr int kStep = kBlockTokens * 4;  // bytes of one step of K: 16 keys x (a bf16 pair or an f32)

// Whether a tile fetches the next one's K and V. Benchmark (one row of 1,024 and 4,096 tokens from memory, two cores of
// a Zen 5): into L1 takes 31 and 12% less time than into L2 where each core has its own way to memory, 3 to 8% where
// they share one.
enum class NextTile { left, into_l1, into_l2 };
constexpr std::size_t kIntoL1Bytes = 16 << 10;  // of a tile, of which a large L1 has to hold two

// Stands for blocks the sequence does not have.
alignas(64) constexpr std::byte kZeroBlock[kBlockTokens * kMaxHeadDim * sizeof(float)] = {};

// One step of a chain takes 4 bytes of every lane: a bf16 pair (odd product first) or an f32.
struct Bf16 {
  static constexpr int kBits = 16;
  static constexpr int kPerStep = 2;
  static __m512 step(__m512i x, std::uint32_t y, __m512 acc) {
    return _mm512_dpbf16_ps(acc, as_bf16(_mm512_set1_epi32(static_cast<int>(y))), as_bf16(x));
  }
  static void store(std::uint32_t* p, int first_key, __m512 x) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(p + first_key / 2), to_bf16(x));
  }
};
// Codes, which become bf16 in registers: written to memory and read again they would keep few rows waiting longer than
// their products take.
template <int kCodeBits>
struct Codes : Bf16 {
  static constexpr int kBits = kCodeBits;
};
struct F32 {
  static constexpr int kBits = 32;
  static constexpr int kPerStep = 1;
  static __m512 step(__m512i x, std::uint32_t y, __m512 acc) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(y))), acc);
  }
  static void store(std::uint32_t* p, int first_key, __m512 x) { _mm512_store_ps(p + first_key, x); }
};

template <class Format>
constexpr bool kIsCodes = Format::kBits < 16;

// What a group of rows needs during one chunk, in steps of 4 bytes. m, l, fade: lane i is row i. fade: what o has to be
// multiplied by before the values of p come onto it; next_fade: the same of the tile whose scores are in s.
struct Work {
  alignas(64) std::uint32_t q[kMaxRows][kMaxHeadDim];
  alignas(64) std::uint32_t p[kMaxRows][kMaxHeadDim];  // [kTileKeys] of it; the stride of q lets one function read both
  alignas(64) float s[kMaxRows][kTileKeys];
  alignas(64) float m[kLanes];
  alignas(64) float top[kLanes];
  alignas(64) float l[kLanes];
  alignas(64) float fade[kLanes];
  alignas(64) float next_fade[kLanes];
};

// Scales and minima of the codes of a tile's V, of tokens in turn, as f32.
struct ValueScales {
  alignas(64) float scale[kTileBlocks][kMaxHeadDim / kLanes][kBlockTokens];
  alignas(64) float minimum[kTileBlocks][kMaxHeadDim / kLanes][kBlockTokens];
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

// acc[i][j] += x[j][t] * y[i][t] for t in [0, steps); x[j] advances by `stride` bytes per step.
// ahead[j]: what will be read a tile later.
template <class Format, NextTile kNext, int kRows, int kColumns>
inline __attribute__((always_inline)) void chains(const std::byte* const* x, const std::byte* const* ahead, long stride,
                                                  const std::uint32_t* y, int steps, __m512 (&acc)[kRows][kColumns]) {
  for (int t = 0; t < steps; t++) {
    __m512i loaded[kColumns];
    DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) {
      loaded[j] = _mm512_loadu_si512(x[j] + t * stride);
      if constexpr (kNext == NextTile::into_l1) _mm_prefetch(ahead[j] + t * stride, _MM_HINT_T0);
      if constexpr (kNext == NextTile::into_l2) _mm_prefetch(ahead[j] + t * stride, _MM_HINT_T1);
    }
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) {
        acc[i][j] = Format::step(loaded[j], y[i * kMaxHeadDim + t], acc[i][j]);
      }
    }
  }
}

// Of a block's K in codes, one group: what makes values of the tokens 0 to 7 and 8 to 15.
template <int kBits>
struct KeyDecoder {
  Decoder<Level, kBits> left;
  Decoder<Level, kBits> right;
  void read(const std::byte* part, const KvCodes& codes, int group) {
    const auto* scales = reinterpret_cast<const std::uint16_t*>(part + codes.scale_offset) + group * kBlockTokens;
    const auto* minima = reinterpret_cast<const std::uint16_t*>(part + codes.minimum_offset) + group * kBlockTokens;
    left.scale = Level::tokens(scales);
    right.scale = Level::tokens(scales + 8);
    if constexpr (kBits == 4) left.minimum = Level::tokens(minima);
    if constexpr (kBits == 4) right.minimum = Level::tokens(minima + 8);
  }
  // 32 bytes of codes to pairs of dims.
  void decode(const std::uint8_t* code, __m512i (&x)[8 / kBits]) const {
    if constexpr (kBits == 8) {
      x[0] = Level::rounded(left.of(Level::bytes(code)), right.of(Level::bytes(code + 16)));
    } else {
      __m512 low[2];
      __m512 high[2];
      Level::nibbles(code, low[0], high[0]);
      Level::nibbles(code + 16, low[1], high[1]);
      x[0] = Level::rounded(left.of(low[0]), right.of(low[1]));
      x[1] = Level::rounded(left.of(high[0]), right.of(high[1]));
    }
  }
};

// As chains() over head_dim, of K in codes.
template <int kBits, int kRows, int kBlocks>
inline __attribute__((always_inline)) void code_chains(const Tile& tile, const Tile& next, const KvCodes& codes,
                                                       const std::uint32_t* q, __m512 (&acc)[kRows][kBlocks]) {
  constexpr int kPairs = 8 / kBits;  // of dims, in 32 bytes
  for (int begin = 0, g = 0; begin < codes.head_dim; begin += codes.group, g++) {
    const int end = codes.head_dim - begin < codes.group ? codes.head_dim : begin + codes.group;
    KeyDecoder<kBits> decoder[kBlocks];
    DALSEGNO_UNROLL for (int j = 0; j < kBlocks; j++) decoder[j].read(tile.k[j], codes, g);
    for (int d = begin; d < end; d += 2 * kPairs) {
      const int at = d * kBlockTokens * kBits / 8;
      DALSEGNO_UNROLL for (int j = 0; j < kBlocks; j++) {
        __m512i x[kPairs];
        decoder[j].decode(reinterpret_cast<const std::uint8_t*>(tile.k[j] + at), x);
        _mm_prefetch(next.k[j] + at, _MM_HINT_T1);
        DALSEGNO_UNROLL for (int s = 0; s < kPairs; s++) {
          DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
            acc[i][j] = Bf16::step(x[s], q[i * kMaxHeadDim + d / 2 + s], acc[i][j]);
          }
        }
      }
    }
  }
}

template <int kBits>
void read_scales(const Tile& tile, const Tile& next, int blocks, const KvCodes& codes, ValueScales& to) {
  const auto widened = [](const std::byte* from) {
    const __m256i stored = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(stored), 16));
  };
  constexpr int kBytes = kBlockTokens * sizeof(std::uint16_t);
  const int groups = (codes.head_dim + codes.group - 1) / codes.group;
  for (int b = 0; b < blocks; b++) {
    for (int g = 0; g < groups; g++) {
      _mm512_store_ps(to.scale[b][g], widened(tile.v[b] + codes.scale_offset + g * kBytes));
      if (kBits == 4) _mm512_store_ps(to.minimum[b][g], widened(tile.v[b] + codes.minimum_offset + g * kBytes));
    }
    for (std::size_t at = codes.scale_offset; at < codes.bytes; at += 64) {
      _mm_prefetch(next.k[b] + at, _MM_HINT_T1);
      _mm_prefetch(next.v[b] + at, _MM_HINT_T1);
    }
  }
}

// As chains() over the tile's first `blocks` blocks, of V in codes, from dim d on.
template <int kBits, int kRows, int kColumns>
inline __attribute__((always_inline)) void code_values(const Tile& tile, const Tile& next, int blocks,
                                                       const KvCodes& codes, int d, const ValueScales& scales,
                                                       const std::uint32_t* p, __m512 (&acc)[kRows][kColumns]) {
  constexpr int kBytes = kLanes * 2 * kBits / 8;  // 16 dims of two tokens
  int group[kColumns];
  DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) group[j] = (d + kLanes * j) / codes.group;
  for (int b = 0; b < blocks; b++) {
    for (int t = 0; t < kBlockTokens / 2; t++) {
      const int at = (t * codes.head_dim + d) * 2 * kBits / 8;
      DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) {
        const auto pair = [&](const float* x) {
          double both;
          __builtin_memcpy(&both, x + 2 * t, sizeof both);
          return _mm512_castpd_ps(_mm512_set1_pd(both));
        };
        Decoder<Level, kBits> decode;
        decode.scale = pair(scales.scale[b][group[j]]);
        if constexpr (kBits == 4) decode.minimum = pair(scales.minimum[b][group[j]]);
        const auto* code = reinterpret_cast<const std::uint8_t*>(tile.v[b] + at + kBytes * j);
        __m512 low;
        __m512 high;
        if constexpr (kBits == 8) {
          low = Level::bytes(code);
          high = Level::bytes(code + kLanes);
        } else {
          Level::nibbles(code, low, high);
        }
        const __m512i x = Level::rounded(decode.of(low), decode.of(high));
        _mm_prefetch(next.v[b] + at + kBytes * j, _MM_HINT_T1);
        DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
          acc[i][j] = Bf16::step(x, p[i * kMaxHeadDim + b * kBlockTokens / 2 + t], acc[i][j]);
        }
      }
    }
  }
}

// o[d .. d + 16 * kColumns) of each row, faded, and the tile's first `blocks` blocks onto it.
template <class Format, NextTile kNext, int kRows, int kColumns>
void values(const Tile& tile, const Tile& next, int blocks, const AttentionArgs& args, int d, const Work& work,
            const ValueScales& scales, const AttentionState* out) {
  __m512 acc[kRows][kColumns];
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    const __m512 fade = _mm512_set1_ps(work.fade[i]);
    DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) {
      acc[i][j] = _mm512_mul_ps(_mm512_load_ps(out[i].o + d + kLanes * j), fade);
    }
  }
  constexpr int kSteps = kBlockTokens / Format::kPerStep;
  if constexpr (kIsCodes<Format>) {
    code_values<Format::kBits, kRows, kColumns>(tile, next, blocks, *args.codes, d, scales, work.p[0], acc);
  } else {
    for (int b = 0; b < blocks; b++) {
      const std::byte* x[kColumns];
      const std::byte* ahead[kColumns];
      DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) {
        x[j] = tile.v[b] + (d + kLanes * j) * 4;
        ahead[j] = next.v[b] + (d + kLanes * j) * 4;
      }
      chains<Format, kNext, kRows, kColumns>(x, ahead, args.head_dim * 4L, work.p[0] + kSteps * b, kSteps, acc);
    }
  }
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < kColumns; j++) _mm512_store_ps(out[i].o + d + kLanes * j, acc[i][j]);
  }
}

// The keys [begin, end) of a tile, one bit each.
inline std::uint64_t range(int begin, int end) {
  if (begin >= kTileKeys || end <= 0 || end <= begin) return 0;
  const std::uint64_t below = end >= kTileKeys ? ~0ULL : (1ULL << end) - 1;
  return begin <= 0 ? below : below & ~((1ULL << begin) - 1);
}

// The keys that a row sees in a tile, one bit each.
inline std::uint64_t visible(const AttentionArgs& args, int row, int tile) {
  const std::uint64_t keys = range(args.begin[row] - tile, args.end[row] - tile);
  if (args.kept_end == nullptr) return keys;
  return keys | range(args.kept_begin[row] - tile, args.kept_end[row] - tile);
}

struct Add {
  static __m512 of(__m512 a, __m512 b) { return _mm512_add_ps(a, b); }
};
struct Max {
  static __m512 of(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }
};

// Folds each of up to six vectors by halves 8, 4, 2, 1, several at a time: lane i of the result is vector i folded.
template <class Op, int kRows>
inline __attribute__((always_inline)) __m512 fold_rows(const __m512 (&x)[kRows]) {
  constexpr int kPairs = (kRows + 1) / 2;
  __m512 eight[4];  // lanes 0-7: row 2i, 8-15: row 2i + 1
  DALSEGNO_UNROLL for (int i = 0; i < kPairs; i++) {
    const __m512 a = x[2 * i];
    const __m512 b = x[2 * i + 1 < kRows ? 2 * i + 1 : 2 * i];
    eight[i] = Op::of(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
  DALSEGNO_UNROLL for (int i = kPairs; i < 4; i++) eight[i] = eight[0];
  __m512 one[2];  // lane 4i: row i, or row 4 + i
  DALSEGNO_UNROLL for (int i = 0; i < (kRows > 4 ? 2 : 1); i++) {
    const __m512 a = eight[2 * i];
    const __m512 b = eight[2 * i + 1];
    const __m512 four = Op::of(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    const __m512 two = Op::of(four, _mm512_permute_ps(four, 0x4e));
    one[i] = Op::of(two, _mm512_permute_ps(two, 0xb1));
  }
  const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
  return _mm512_permutex2var_ps(one[0], lanes, one[kRows > 4 ? 1 : 0]);
}

inline __mmask16 seeing_rows(const std::uint64_t (&keys)[kMaxRows], int rows) {
  unsigned seeing = 0;
  DALSEGNO_UNROLL for (int i = 0; i < rows; i++) seeing |= static_cast<unsigned>(keys[i] != 0) << i;
  return static_cast<__mmask16>(seeing);
}

// The scores of the tile's first kBlocks blocks; brings m of the rows that see a key under the new maximum. next_fade
// is 1 for the other rows, whose p is 0.
template <class Format, NextTile kNext, int kRows, int kBlocks>
void scores(const Tile& tile, const Tile& next, const std::uint64_t (&keys)[kMaxRows], const AttentionArgs& args,
            Work& work) {
  __m512 acc[kRows][kBlocks];
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < kBlocks; j++) acc[i][j] = _mm512_setzero_ps();
  }
  if constexpr (kIsCodes<Format>) {
    code_chains<Format::kBits, kRows, kBlocks>(tile, next, *args.codes, work.q[0], acc);
  } else {
    chains<Format, kNext, kRows, kBlocks>(tile.k, next.k, kStep, work.q[0], args.head_dim / Format::kPerStep, acc);
  }
  __m512 fold[kRows];
  const auto scale = [&](auto masked) {
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < kBlocks; j++) {
        const auto on = decltype(masked)::value ? static_cast<__mmask16>(keys[i] >> (kLanes * j)) : __mmask16{0xffff};
        const __m512 s = _mm512_mask_mul_ps(_mm512_set1_ps(kMinusInfinity), on, acc[i][j], _mm512_set1_ps(args.scale));
        _mm512_store_ps(work.s[i] + kLanes * j, s);
        fold[i] = j == 0 ? s : _mm512_max_ps(fold[i], s);
      }
    }
  };
  std::uint64_t all = keys[0];
  DALSEGNO_UNROLL for (int i = 1; i < kRows; i++) all &= keys[i];
  if (kBlocks == kTileBlocks && all == ~0ULL) {
    scale(std::false_type{});
  } else {
    scale(std::true_type{});
  }
  const __mmask16 rows = seeing_rows(keys, kRows);
  const __m512 before = _mm512_load_ps(work.m);
  const __m512 m = _mm512_mask_max_ps(before, rows, before, fold_rows<Max>(fold));
  const __m512 fade = _mm512_mask_mov_ps(_mm512_set1_ps(1.0F), rows, exp_negative(_mm512_sub_ps(before, m)));
  _mm512_store_ps(work.m, m);
  _mm512_store_ps(work.top, _mm512_maskz_mov_ps(rows, m));
  _mm512_store_ps(work.next_fade, fade);
}

// From the scores the probabilities of the same blocks, and what they add to l.
template <class Format, int kRows, int kBlocks>
void probabilities(const std::uint64_t (&keys)[kMaxRows], Work& work) {
  __m512 fold[kRows];
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    const __m512 top = _mm512_set1_ps(work.top[i]);
    __m512 p[kBlocks];
    DALSEGNO_UNROLL for (int j = 0; j < kBlocks; j++) {
      p[j] = _mm512_sub_ps(_mm512_load_ps(work.s[i] + kLanes * j), top);
    }
    exp_negative(p);
    DALSEGNO_UNROLL for (int j = 0; j < kBlocks; j++) Format::store(work.p[i], kLanes * j, p[j]);
    // Of the four vectors that a sum takes in pairs, those that are missing are zeros.
    fold[i] = kBlocks == 1 ? p[0] : _mm512_add_ps(p[0], p[kBlocks > 1 ? 1 : 0]);
    if (kBlocks == 3) fold[i] = _mm512_add_ps(fold[i], p[kBlocks - 1]);
    if (kBlocks == 4) fold[i] = _mm512_add_ps(fold[i], _mm512_add_ps(p[kBlocks > 2 ? 2 : 0], p[kBlocks - 1]));
  }
  const __m512 fade = _mm512_load_ps(work.next_fade);
  _mm512_store_ps(work.fade, fade);
  const __m512 l = _mm512_mul_ps(_mm512_load_ps(work.l), fade);
  _mm512_store_ps(work.l, _mm512_mask_add_ps(l, seeing_rows(keys, kRows), l, fold_rows<Add>(fold)));
}

// A tile whose probabilities wait for their values: blocks of it, none at first.
struct Pending {
  Tile tile;
  Tile next;
  int blocks = 0;
};

template <class Format, NextTile kNext, int kRows>
void all_values(const Pending& of, const AttentionArgs& args, int row0, const Work& work) {
  if (of.blocks == 0) return;
  const AttentionState* out = args.out + row0;
  ValueScales scales;
  if constexpr (kIsCodes<Format>) read_scales<Format::kBits>(of.tile, of.next, of.blocks, *args.codes, scales);
  int d = 0;
  for (; d + kLanes * kWidth <= args.head_dim; d += kLanes * kWidth) {
    values<Format, kNext, kRows, kWidth>(of.tile, of.next, of.blocks, args, d, work, scales, out);
  }
  for (; d < args.head_dim; d += kLanes) {
    values<Format, kNext, kRows, 1>(of.tile, of.next, of.blocks, args, d, work, scales, out);
  }
}

// The values of the tile before come between a tile's scores and its probabilities: there they hide how long the
// maximum of a row takes to be known.
template <class Format, NextTile kNext, int kRows, int kBlocks>
__attribute__((noinline)) void attend_tile(const AttentionArgs& args, int row0, int key,
                                           const std::uint64_t (&keys)[kMaxRows], bool last, Pending& pending,
                                           Work& work) {
  const Tile tile = tile_at(args, key);
  Tile next = tile;
  if constexpr (kNext != NextTile::left) {
    next = last && args.next != nullptr ? tile_at(*args.next, args.next->chunk * kChunkKeys)
                                        : tile_at(args, key + kTileKeys);
  }
  scores<Format, kNext, kRows, kBlocks>(tile, next, keys, args, work);
  all_values<Format, kNext, kRows>(pending, args, row0, work);
  probabilities<Format, kRows, kBlocks>(keys, work);
  pending = {tile, next, kBlocks};
}

template <class Format, NextTile kNext, int kRows>
void attend_rows(const AttentionArgs& args, int row0) {
  Work work;
  constexpr auto kBytes = static_cast<std::size_t>(4 / Format::kPerStep);
  const auto* q = static_cast<const std::byte*>(args.q);
  _mm512_store_ps(work.m, _mm512_set1_ps(kMinusInfinity));
  _mm512_store_ps(work.l, _mm512_setzero_ps());
  for (int i = 0; i < kRows; i++) {
    const std::size_t at = static_cast<std::size_t>(row0 + i) * args.q_stride;
    __builtin_memcpy(work.q[i], q + at * kBytes, static_cast<std::size_t>(args.head_dim) * kBytes);
    const AttentionState& state = args.out[row0 + i];
    for (int d = 0; d < args.head_dim; d += kLanes) _mm512_store_ps(state.o + d, _mm512_setzero_ps());
  }
  // All rows see the keys [begin, first_end).
  int begin = args.begin[row0];
  int first_end = args.end[row0];
  for (int i = 1; i < kRows; i++) {
    if (args.begin[row0 + i] > begin) begin = args.begin[row0 + i];
    if (args.end[row0 + i] < first_end) first_end = args.end[row0 + i];
  }
  int end = (args.chunk + 1) * kChunkKeys;
  if (args.end[row0 + kRows - 1] < end) end = args.end[row0 + kRows - 1];  // only prefetching depends on it
  Pending pending;
  for (int key = args.chunk * kChunkKeys; key < (args.chunk + 1) * kChunkKeys; key += kTileKeys) {
    std::uint64_t keys[kMaxRows];
    std::uint64_t any = ~0ULL;
    if (key >= begin && key + kTileKeys <= first_end) {
      DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) keys[i] = ~0ULL;
    } else {
      any = 0;
      for (int i = 0; i < kRows; i++) any |= keys[i] = visible(args, row0 + i, key);
    }
    if (any == 0) continue;
    const bool last = key + kTileKeys >= end;
    if ((any >> 48) != 0) {
      attend_tile<Format, kNext, kRows, 4>(args, row0, key, keys, last, pending, work);
    } else if ((any >> 32) != 0) {
      attend_tile<Format, kNext, kRows, 3>(args, row0, key, keys, last, pending, work);
    } else if ((any >> 16) != 0) {
      attend_tile<Format, kNext, kRows, 2>(args, row0, key, keys, last, pending, work);
    } else {
      attend_tile<Format, kNext, kRows, 1>(args, row0, key, keys, last, pending, work);
    }
  }
  all_values<Format, kNext, kRows>(pending, args, row0, work);
  for (int i = 0; i < kRows; i++) {  // a row of NaN must not look like one that saw no key
    AttentionState& state = args.out[row0 + i];
    state.l = work.l[i];
    state.m = state.l != state.l ? state.l : work.m[i];
  }
}

template <class Format, NextTile kNext>
void attend_group(const AttentionArgs& args, int row0, int rows) {
  using Rows = void (*)(const AttentionArgs&, int);
  static constexpr Rows kByCount[kMaxRows] = {attend_rows<Format, kNext, 1>, attend_rows<Format, kNext, 2>,
                                              attend_rows<Format, kNext, 3>, attend_rows<Format, kNext, 4>,
                                              attend_rows<Format, kNext, 5>, attend_rows<Format, kNext, 6>};
  kByCount[rows - 1](args, row0);
}

// first: of the groups that read the same keys; the others find in L2 what it has read.
template <class Format>
void attend_group(const AttentionArgs& args, int row0, int rows, bool first) {
  if constexpr (!kIsCodes<Format>) {
    if (!first) return attend_group<Format, NextTile::left>(args, row0, rows);
    constexpr std::size_t of_dim = std::size_t{2 * kTileKeys * 4 / Format::kPerStep};  // bytes of a tile
    const bool fits = of_dim * static_cast<std::size_t>(args.head_dim) <= kIntoL1Bytes;
    if (args.large_l1 && fits) return attend_group<Format, NextTile::into_l1>(args, row0, rows);
  }
  attend_group<Format, NextTile::into_l2>(args, row0, rows);
}

template <class Format>
void attend_format(const AttentionArgs& args) {
  const int groups = (args.rows + kMaxRows - 1) / kMaxRows;
  for (int g = 0, row = 0; g < groups; g++) {  // spread evenly: 8 rows are 4 + 4, not 6 + 2
    const int rows = (args.rows - row) / (groups - g);
    attend_group<Format>(args, row, rows, g == 0);
    row += rows;
  }
}

}  // namespace

void attend(const AttentionArgs& args) {
  if (args.codes != nullptr) {
    args.codes->bits == 8 ? attend_format<Codes<8>>(args) : attend_format<Codes<4>>(args);
  } else if (args.format == KvFormat::bf16) {
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
  __m512 fades[2] = {_mm512_set1_ps(total.m - m), _mm512_set1_ps(part.m - m)};
  exp_negative(fades);
  const float a = _mm512_cvtss_f32(fades[0]);
  const float b = _mm512_cvtss_f32(fades[1]);
  total.m = m;
  total.l = __builtin_fmaf(part.l, b, total.l * a);
  for (int d = 0; d < head_dim; d += kLanes) {
    const __m512 faded = _mm512_mul_ps(_mm512_load_ps(total.o + d), fades[0]);
    _mm512_store_ps(total.o + d, _mm512_fmadd_ps(_mm512_load_ps(part.o + d), fades[1], faded));
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
