#include <type_traits>

#include "kernels/lanes_avx2.hpp"
#include "kernels/levels.hpp"
#include "kernels/load_tile.hpp"
#include "kernels/unroll.hpp"

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

// What rounds to bf16: with c = x * 65537 to nearest, c - (c - x) is x to the nearest bf16, ties to even.
constexpr float kSplit = 65537.0F;

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
  // To the nearest. Requires: NaN, 0 or normal, and below 2^111.
  static __m256 rounded(__m256 x) {
    const __m256 c = _mm256_mul_ps(x, _mm256_set1_ps(kSplit));
    return _mm256_sub_ps(c, _mm256_sub_ps(c, x));
  }
  static __m256 probability(__m256 p) { return rounded(p); }
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

// Codes, made bf16 pairs in registers where they are used. Few rows could share a tile made before: what many rows
// attend to comes here as bf16 already. parameters(): what a token's scale and minimum become, so that decoded() takes
// codes times a power of two. Requires of it: nothing overflows, and what is not 0 is normal before it is rounded.
template <int kBits>
struct Coded : Bf16 {
  static constexpr int kLaneBytes = kBits / 4;
  static constexpr int kSteps = kBits == 8 ? 1 : 2;  // whose keys lie together
  static constexpr bool kCoded = true;
  static Pair parameters(__m256 scale, __m256 minimum);
  static Pair codes_at(const std::byte* p, bool upper);
  static __m256 decoded(__m256 code, const Pair& by);
};

// code: times 2^24, every other byte at the top of its lane. The product with the scale has 15 bits at most, so c may
// be made at once: a bf16 times 65537 is exact.
template <>
inline Bf16::Pair Coded<8>::parameters(__m256 scale, __m256) {
  const __m256 by = _mm256_mul_ps(scale, _mm256_set1_ps(0x1p-24F));
  return {by, _mm256_mul_ps(by, _mm256_set1_ps(kSplit))};
}
template <>
inline Bf16::Pair Coded<8>::codes_at(const std::byte* p, bool) {
  const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i even =
      _mm256_setr_epi32(0x00ffffff, 0x02ffffff, 0x04ffffff, 0x06ffffff, 0x08ffffff, 0x0affffff, 0x0cffffff, 0x0effffff);
  const __m256i odd = _mm256_or_si256(even, _mm256_set1_epi32(0x01000000));
  return {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(all, even)), _mm256_cvtepi32_ps(_mm256_shuffle_epi8(all, odd))};
}
template <>
inline __m256 Coded<8>::decoded(__m256 code, const Pair& by) {
  const __m256 c = _mm256_mul_ps(code, by.odd);
  return _mm256_sub_ps(c, _mm256_fnmadd_ps(code, by.even, c));
}

// code: times 2^16, a nibble of every other byte.
template <>
inline Bf16::Pair Coded<4>::parameters(__m256 scale, __m256 minimum) {
  return {_mm256_mul_ps(scale, _mm256_set1_ps(0x1p-16F)), minimum};
}
template <>
inline Bf16::Pair Coded<4>::codes_at(const std::byte* p, bool upper) {
  const __m256i all = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i even =
      _mm256_setr_epi32(0xff00ffff, 0xff02ffff, 0xff04ffff, 0xff06ffff, 0xff08ffff, 0xff0affff, 0xff0cffff, 0xff0effff);
  const __m256i odd = _mm256_or_si256(even, _mm256_set1_epi32(0x00010000));
  const __m256i nibble = _mm256_set1_epi32(0x000f0000);
  const auto of = [&](const __m256i& order) {
    const __m256i bytes = _mm256_shuffle_epi8(all, order);
    return _mm256_cvtepi32_ps(_mm256_and_si256(upper ? _mm256_srli_epi32(bytes, 4) : bytes, nibble));
  };
  return {of(even), of(odd)};
}
template <>
inline __m256 Coded<4>::decoded(__m256 code, const Pair& by) {
  return rounded(_mm256_fmadd_ps(code, by.even, by.odd));
}

// Of a tile's keys or values in codes: parameters(), [code group][token].
struct Scales {
  alignas(64) float by[kMaxHeadDim / kLanes][kTileKeys];
  alignas(64) float beside[kMaxHeadDim / kLanes][kTileKeys];
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

// Where chains() finds K or V: pair(j, t, u, half) has eight lanes of step t + u of group j, t a multiple of kSteps.
// What will be read a tile later goes into L2; into L1 it would push out this tile.
template <class Format, int kGroups>
struct Stored {
  static constexpr int kSteps = 1;
  const std::byte* x[kGroups];
  const std::byte* ahead[kGroups];
  long stride;  // bytes of a step
  [[nodiscard]] auto pair(int j, int t, int, int half) const {
    return Format::load(x[j] + t * stride + half * kVector * 4);
  }
  void prefetch(int j, int t) const { _mm_prefetch(ahead[j] + t * stride, _MM_HINT_T1); }
};

// Lanes are tokens, each with its own scale.
template <class Format, int kGroups>
struct CodedKeys {
  static constexpr int kSteps = Format::kSteps;
  static constexpr long kStride = kBlockTokens * 2;  // of kSteps steps
  const std::byte* x[kGroups];
  const std::byte* ahead[kGroups];
  Bf16::Pair by[kGroups][2];
  [[nodiscard]] Bf16::Pair pair(int j, int t, int u, int half) const {
    const Bf16::Pair codes = Format::codes_at(x[j] + t / kSteps * kStride + half * kLanes, u == 1);
    return {Format::decoded(codes.even, by[j][half]), Format::decoded(codes.odd, by[j][half])};
  }
  void prefetch(int j, int t) const { _mm_prefetch(ahead[j] + t / kSteps * kStride, _MM_HINT_T1); }
};

// A step is a pair of tokens, whose scales all lanes share.
template <class Format, int kGroups>
struct CodedValues {
  static constexpr int kSteps = 1;
  const std::byte* x[kGroups];
  const std::byte* ahead[kGroups];
  long stride;
  const float* by[kGroups];
  const float* beside[kGroups];
  [[nodiscard]] Bf16::Pair pair(int j, int t, int, int half) const {
    const std::byte* at = x[j] + t * stride;
    const Bf16::Pair codes =
        Format::kLaneBytes == 2 ? Format::codes_at(at + half * kLanes, false) : Format::codes_at(at, half == 1);
    const Bf16::Pair first = Bf16::broadcast(by[j] + 2L * t);
    const Bf16::Pair second = Bf16::broadcast(beside[j] + 2L * t);
    return {Format::decoded(codes.even, {first.even, second.even}),
            Format::decoded(codes.odd, {first.odd, second.odd})};
  }
  void prefetch(int j, int t) const { _mm_prefetch(ahead[j] + t * stride, _MM_HINT_T1); }
};

// acc[i][2j], [2j+1] += the pairs of group j at t * y[i][t] for t in [0, steps). Requires: whole kSteps.
template <class Format, int kRows, int kGroups, class Source>
inline __attribute__((always_inline)) void chains(const Source& from, const float* y, int steps,
                                                  __m256 (&acc)[kRows][2 * kGroups]) {
  for (int t = 0; t < steps; t += Source::kSteps) {
    DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
      from.prefetch(j, t);
      DALSEGNO_UNROLL for (int u = 0; u < Source::kSteps; u++) {
        const auto low = from.pair(j, t, u, 0);
        const auto high = from.pair(j, t, u, 1);
        DALSEGNO_UNROLL for (int i = 0; i < kRows; i++) {
          const auto value = Format::broadcast(y + i * kMaxHeadDim + (t + u) * Format::kPerStep);
          acc[i][2 * j] = Format::step(low, value, acc[i][2 * j]);
          acc[i][2 * j + 1] = Format::step(high, value, acc[i][2 * j + 1]);
        }
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
        CodedKeys<Format, kGroups> from;
        DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
          const int offset = d * kBlockTokens * Format::kLaneBytes / 2;
          from.x[j] = tile.k[b + j] + offset;
          from.ahead[j] = next.k[b + j] + offset;
          DALSEGNO_UNROLL for (int half = 0; half < 2; half++) {
            const int token = (b + j) * kBlockTokens + half * kVector;
            from.by[j][half] = {_mm256_load_ps(work.k.by[g] + token), _mm256_load_ps(work.k.beside[g] + token)};
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
    std::conditional_t<Format::kCoded, CodedValues<Format, kGroups>, Stored<Format, kGroups>> from;
    DALSEGNO_UNROLL for (int j = 0; j < kGroups; j++) {
      const int at = d + kLanes * j;
      from.x[j] = tile.v[b] + at * Format::kLaneBytes;
      from.ahead[j] = next.v[b] + at * Format::kLaneBytes;
      if constexpr (Format::kCoded) {
        const int g = at / args.codes->group;
        from.by[j] = work.v.by[g] + b * kBlockTokens;
        from.beside[j] = work.v.beside[g] + b * kBlockTokens;
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

// False: a scale or minimum is such that decoded() might overflow or flush what it should not.
template <int kBits>
bool read_scales(const std::byte* const (&parts)[kTileBlocks], const KvCodes& codes, Scales& out) {
  const __m256i least = bits(_mm256_set1_ps(0x1p-64F));
  const __m256i most = bits(_mm256_set1_ps(0x1p+64F));
  const auto widened = [](const std::byte* p) {
    return _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16);
  };
  __m256i outside = _mm256_setzero_si256();
  for (int b = 0; b < kTileBlocks; b++) {
    const std::byte* from = parts[b] + codes.scale_offset;
    const std::byte* minima = parts[b] + codes.minimum_offset;
    for (int begin = 0, g = 0; begin < codes.head_dim; begin += codes.group, g++) {
      for (int half = 0; half < 2; half++, from += kLanes, minima += kLanes) {
        const __m256i scale = widened(from);
        const __m256i minimum = kBits == 8 ? _mm256_setzero_si256() : widened(minima);
        const __m256i small =
            _mm256_andnot_si256(_mm256_cmpeq_epi32(scale, _mm256_setzero_si256()), _mm256_cmpgt_epi32(least, scale));
        const __m256i magnitude = _mm256_and_si256(minimum, _mm256_set1_epi32(INT32_MAX));
        const __m256i large = _mm256_cmpgt_epi32(_mm256_max_epi32(scale, magnitude), most);
        outside = _mm256_or_si256(outside, _mm256_or_si256(small, large));
        const Bf16::Pair by = Coded<kBits>::parameters(floats(scale), floats(minimum));
        const int token = b * kBlockTokens + half * kVector;
        _mm256_store_ps(out.by[g] + token, by.even);
        _mm256_store_ps(out.beside[g] + token, by.odd);
      }
    }
  }
  return _mm256_testz_si256(outside, outside) != 0;
}

template <int kBits, int kRows>
bool attend_codes(const AttentionArgs& args, int row0, int key, const Tile& tile, const Tile& next, Work& work) {
  if (!read_scales<kBits>(tile.k, *args.codes, work.k) || !read_scales<kBits>(tile.v, *args.codes, work.v))
    return false;
  attend_keys<Coded<kBits>, kRows>(args, row0, key, tile, next, work);
  return true;
}

template <class Format, int kRows>
void attend_tile(const AttentionArgs& args, int row0, int key, Work& work) {
  Tile tile = tile_at(args, key);
  Tile next = tile_at(args, key + kTileKeys);
  if constexpr (Format::kPerStep == 2) {
    if (args.codes != nullptr) {
      const bool done = args.codes->bits == 8 ? attend_codes<8, kRows>(args, row0, key, tile, next, work)
                                              : attend_codes<4, kRows>(args, row0, key, tile, next, work);
      if (done) return;
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
