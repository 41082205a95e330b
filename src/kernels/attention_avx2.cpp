#include <type_traits>

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
  static constexpr int kLaneBytes = 4;
  static constexpr bool kCoded = false;
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
  // c - (c - p), c = p * 65537 to nearest, is p to the nearest bf16, ties to even. Requires: NaN, 0 or in [2^-126, 1].
  static __m256 probability(__m256 p) {
    const __m256 c = _mm256_mul_ps(p, _mm256_set1_ps(65537.0F));
    return _mm256_sub_ps(c, _mm256_sub_ps(c, p));
  }
  static void widen(const std::byte* q, int n, float* out) {
    for (int i = 0; i < n; i += kVector) {
      const __m128i stored = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + 2 * i));
      _mm256_store_ps(out + i, floats(_mm256_slli_epi32(_mm256_cvtepu16_epi32(stored), 16)));
    }
  }
};
struct F32 {
  static constexpr int kPerStep = 1;
  static constexpr int kLaneBytes = 4;
  static constexpr bool kCoded = false;
  static __m256 load(const std::byte* x) { return _mm256_loadu_ps(reinterpret_cast<const float*>(x)); }
  static __m256 broadcast(const float* y) { return _mm256_broadcast_ss(y); }
  static __m256 step(__m256 x, __m256 y, __m256 acc) { return _mm256_fmadd_ps(x, y, acc); }
  static __m256 probability(__m256 p) { return p; }
  static void widen(const std::byte* q, int n, float* out) {
    __builtin_memcpy(out, q, static_cast<std::size_t>(n) * sizeof(float));
  }
};

// Codes of 8 bits, made bf16 pairs in registers where they are used. Few rows could share a tile made before: what many
// rows attend to comes here as bf16 already.
struct Coded : Bf16 {
  static constexpr int kLaneBytes = 2;
  static constexpr bool kCoded = true;
};

// Of a tile's keys or values in codes of 8 bits, [code group][token]. by: times 2^-24; split: times 65537 too, which
// is exact in f32, as a scale is a bf16.
struct Scales {
  alignas(64) float by[kMaxHeadDim / kLanes][kTileKeys];
  alignas(64) float split[kMaxHeadDim / kLanes][kTileKeys];
};

// What a group of rows needs during one chunk.
struct Work {
  alignas(64) float q[kMaxRows][kMaxHeadDim];
  alignas(64) float p[kMaxRows][kMaxHeadDim];  // [kTileKeys] of it; the stride of q lets one function read both
  alignas(64) float s[kMaxRows][kTileKeys];
  Scales k;
  Scales v;
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

// Where chains() finds K or V: pair(j, t, half) has eight lanes of step t of group j. What will be read a tile later
// goes into L2; into L1 it would push out this tile.
template <class Format, int kGroups>
struct Stored {
  const std::byte* x[kGroups];
  const std::byte* ahead[kGroups];
  long stride;  // bytes of a step
  [[nodiscard]] auto pair(int j, int t, int half) const { return Format::load(x[j] + t * stride + half * kVector * 4); }
  void prefetch(int j, int t) const { _mm_prefetch(ahead[j] + t * stride, _MM_HINT_T1); }
};

// code: times 2^24. The product x with the scale to the nearest bf16, ties to even: with c = x * 65537 to nearest it is
// c - (c - x), for the product has 15 bits at most. Requires: neither overflows, and x is 0 or normal.
inline __m256 decoded(__m256 code, __m256 by, __m256 split) {
  const __m256 c = _mm256_mul_ps(code, split);
  return _mm256_sub_ps(c, _mm256_fnmadd_ps(code, by, c));
}

// The codes of eight lanes [8][2] at p, times 2^24: every other byte to the top of its lane.
inline Bf16::Pair codes_at(const std::byte* p) {
  const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i even =
      _mm256_setr_epi32(0x00ffffff, 0x02ffffff, 0x04ffffff, 0x06ffffff, 0x08ffffff, 0x0affffff, 0x0cffffff, 0x0effffff);
  const __m256i odd = _mm256_or_si256(even, _mm256_set1_epi32(0x01000000));
  return {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(all, even)), _mm256_cvtepi32_ps(_mm256_shuffle_epi8(all, odd))};
}

// Lanes are tokens, each with its own scale.
template <int kGroups>
struct CodedKeys {
  static constexpr long kStride = kBlockTokens * 2;
  const std::byte* x[kGroups];
  const std::byte* ahead[kGroups];
  __m256 by[kGroups][2];
  __m256 split[kGroups][2];
  [[nodiscard]] Bf16::Pair pair(int j, int t, int half) const {
    const Bf16::Pair codes = codes_at(x[j] + t * kStride + half * kLanes);
    return {decoded(codes.even, by[j][half], split[j][half]), decoded(codes.odd, by[j][half], split[j][half])};
  }
  void prefetch(int j, int t) const { _mm_prefetch(ahead[j] + t * kStride, _MM_HINT_T1); }
};

// A step is a pair of tokens, whose scales all lanes share.
template <int kGroups>
struct CodedValues {
  const std::byte* x[kGroups];
  const std::byte* ahead[kGroups];
  long stride;
  const float* by[kGroups];
  const float* split[kGroups];
  [[nodiscard]] Bf16::Pair pair(int j, int t, int half) const {
    const Bf16::Pair codes = codes_at(x[j] + t * stride + half * kLanes);
    const Bf16::Pair scale = Bf16::broadcast(by[j] + 2L * t);
    const Bf16::Pair both = Bf16::broadcast(split[j] + 2L * t);
    return {decoded(codes.even, scale.even, both.even), decoded(codes.odd, scale.odd, both.odd)};
  }
  void prefetch(int j, int t) const { _mm_prefetch(ahead[j] + t * stride, _MM_HINT_T1); }
};

// acc[i][2j], [2j+1] += from.pair(j, t, 0), (j, t, 1) * y[i][t] for t in [0, steps).
template <class Format, int kRows, int kGroups, class Source>
inline __attribute__((always_inline)) void chains(const Source& from, const float* y, int steps,
                                                  __m256 (&acc)[kRows][2 * kGroups]) {
  for (int t = 0; t < steps; t++) {
    DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
      const auto low = from.pair(j, t, 0);
      const auto high = from.pair(j, t, 1);
      from.prefetch(j, t);
      DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
        const auto value = Format::broadcast(y + i * kMaxHeadDim + t * Format::kPerStep);
        acc[i][2 * j] = Format::step(low, value, acc[i][2 * j]);
        acc[i][2 * j + 1] = Format::step(high, value, acc[i][2 * j + 1]);
      }
    }
  }
}

template <class Format, int kRows>
void scores(const Tile& tile, const Tile& next, const AttentionArgs& args, Work& work) {
  constexpr int kGroups = groups(kRows);
  for (int b = 0; b < kTileBlocks; b += kGroups) {
    __m256 acc[kRows][2 * kGroups];
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < 2 * kGroups; j++) acc[i][j] = _mm256_setzero_ps();
    }
    if constexpr (Format::kCoded) {
      for (int d = 0, g = 0; d < args.head_dim; d += args.codes->group, g++) {
        const int dims = args.head_dim - d < args.codes->group ? args.head_dim - d : args.codes->group;
        CodedKeys<kGroups> from;
        DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
          from.x[j] = tile.k[b + j] + d * kBlockTokens;
          from.ahead[j] = next.k[b + j] + d * kBlockTokens;
          DALSEGNO_UNROLL for (int half = 0; half < 2; half++) {
            const int token = (b + j) * kBlockTokens + half * kVector;
            from.by[j][half] = _mm256_load_ps(work.k.by[g] + token);
            from.split[j][half] = _mm256_load_ps(work.k.split[g] + token);
          }
        }
        chains<Format, kRows, kGroups>(from, work.q[0] + d, dims / Format::kPerStep, acc);
      }
    } else {
      Stored<Format, kGroups> from;
      DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
        from.x[j] = tile.k[b + j];
        from.ahead[j] = next.k[b + j];
      }
      from.stride = kStep;
      chains<Format, kRows, kGroups>(from, work.q[0], args.head_dim / Format::kPerStep, acc);
    }
    DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
      DALSEGNO_UNROLL for (int j = 0; j < 2 * kGroups; j++) {
        _mm256_store_ps(work.s[i] + kLanes * b + kVector * j, acc[i][j]);
      }
    }
  }
}

// o[d .. d + 16 * kGroups) of each row over the tile's keys.
template <class Format, int kRows, int kGroups>
void values(const Tile& tile, const Tile& next, const AttentionArgs& args, int d, const Work& work,
            const AttentionState* out) {
  __m256 acc[kRows][2 * kGroups];
  DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
    DALSEGNO_UNROLL for (int j = 0; j < 2 * kGroups; j++) acc[i][j] = _mm256_load_ps(out[i].o + d + kVector * j);
  }
  for (int b = 0; b < kTileBlocks; b++) {
    std::conditional_t<Format::kCoded, CodedValues<kGroups>, Stored<Format, kGroups>> from;
    DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
      const int at = d + kLanes * j;
      from.x[j] = tile.v[b] + at * Format::kLaneBytes;
      from.ahead[j] = next.v[b] + at * Format::kLaneBytes;
      if constexpr (Format::kCoded) {
        const int g = at / args.codes->group;
        from.by[j] = work.v.by[g] + b * kBlockTokens;
        from.split[j] = work.v.split[g] + b * kBlockTokens;
      }
    }
    from.stride = static_cast<long>(args.head_dim) * Format::kLaneBytes;
    chains<Format, kRows, kGroups>(from, work.p[0] + kBlockTokens * b, kBlockTokens / Format::kPerStep, acc);
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
  if (keys.last.begin == 0 && keys.last.end == kTileKeys) {
    for (int key = 0; key < kTileKeys; key += kVector) {
      const __m256 x = _mm256_mul_ps(_mm256_load_ps(s + key), _mm256_set1_ps(scale));
      _mm256_store_ps(s + key, x);
      top = _mm256_max_ps(top, x);
    }
    return fold_max(top);
  }
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
void attend_keys(const AttentionArgs& args, int row0, int key, const Tile& tile, const Tile& next, Work& work) {
  AttentionState* out = args.out + row0;
  scores<Format, kRows>(tile, next, args, work);
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
    values<Format, kRows, kGroups>(tile, next, args, d, work, out);
  }
  for (; d < args.head_dim; d += kLanes) values<Format, kRows, 1>(tile, next, args, d, work, out);
}

// False: a scale is so large or small that decoded() might overflow or flush what it should not.
inline bool read_scales(const std::byte* const (&parts)[kTileBlocks], const KvCodes& codes, Scales& out) {
  const __m256i least = bits(_mm256_set1_ps(0x1p-64F));
  const __m256i most = bits(_mm256_set1_ps(0x1p+64F));
  __m256i outside = _mm256_setzero_si256();
  for (int b = 0; b < kTileBlocks; b++) {
    const auto* from = reinterpret_cast<const __m128i*>(parts[b] + codes.scale_offset);
    for (int begin = 0, g = 0; begin < codes.head_dim; begin += codes.group, g++) {
      for (int half = 0; half < 2; half++, from++) {
        const __m256i scale = _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(from)), 16);
        const __m256i small =
            _mm256_andnot_si256(_mm256_cmpeq_epi32(scale, _mm256_setzero_si256()), _mm256_cmpgt_epi32(least, scale));
        outside = _mm256_or_si256(outside, _mm256_or_si256(small, _mm256_cmpgt_epi32(scale, most)));
        const __m256 by = _mm256_mul_ps(floats(scale), _mm256_set1_ps(0x1p-24F));
        const int token = b * kBlockTokens + half * kVector;
        _mm256_store_ps(out.by[g] + token, by);
        _mm256_store_ps(out.split[g] + token, _mm256_mul_ps(by, _mm256_set1_ps(65537.0F)));
      }
    }
  }
  return _mm256_testz_si256(outside, outside) != 0;
}

template <class Format, int kRows>
void attend_tile(const AttentionArgs& args, int row0, int key, Work& work) {
  Tile tile = tile_at(args, key);
  Tile next = tile_at(args, key + kTileKeys);
  if constexpr (Format::kPerStep == 2) {
    if (args.codes != nullptr) {
      if (args.codes->bits == 8 && read_scales(tile.k, *args.codes, work.k) &&
          read_scales(tile.v, *args.codes, work.v)) {
        return attend_keys<Coded, kRows>(args, row0, key, tile, next, work);
      }
      load_tile<load_codes>(args, next, kTileBlocks, tile);
      next = tile;
    }
  }
  attend_keys<Format, kRows>(args, row0, key, tile, next, work);
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
