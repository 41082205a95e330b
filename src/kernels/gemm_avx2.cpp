#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels/levels.hpp"
#include "kernels/unroll.hpp"
#include "tensor/packing.hpp"

// A tile is 1 to 4 rows (6 for floats) by 16 columns of a panel, or one row by all 32. vpmaddubsw multiplies
// unsigned codes by signed activations and adds pairs, saturating at 16 bits; so sums are kept in int16 only
// as long as they provably fit, 2 products per quad and lane, |activation| <= 127:
//   4-bit codes   8 quads: 16 * 15 * 127 = 30480
//   codes <= 31   4 quads: 8 * 31 * 127 = 31496 (5 bits)
//   codes <= 63   2 quads: 4 * 63 * 127 = 32004 (6 bits)
//   8-bit codes   1 quad, their signs moved to the activations: 2 * 128 * 127 = 32512
namespace dalsegno::avx2 {
namespace {

constexpr int kTallest = 4;
constexpr int kTallestWide = 4;
constexpr int kTallestFloat = 6;
// How far ahead one row or two of floats are fetched.
constexpr int kAheadOfFloats = 1024;

// Rows [m, k] of quantised activations, from some row on. Code: int8 or int16.
template <class Code>
struct Rows {
  const Code* codes;
  const float* scale;
  const std::int32_t* sum;
  const float* total;
  int k;
};

// Where a tile's result goes: element (0, 0) of the panel's columns, how many are valid and what is added.
struct Target {
  float* c;
  std::size_t stride;
  const float* bias;  // of the panel's first column, or nullptr
  int columns;
  bool add;
};

// What a tile fetches into L2: `lines` lines per group. One row fetches the next group of its own panel instead, enough
// for the processor to see the stream.
struct Fetch {
  const std::byte* at;
  int lines;
};

// Shares the next panel out among the tiles of one, so that memory has work during each.
struct PanelAhead {
  const std::byte* at;
  int lines;  // per group, of those not yet fetched
  int tiles;  // that are still to come
  Fetch take(int groups) {
    const Fetch fetch = {at, (lines + tiles - 1) / tiles};
    lines -= fetch.lines;
    --tiles;
    at += static_cast<std::ptrdiff_t>(groups) * fetch.lines * 64;
    return fetch;
  }
};

// From element 8 - n on: a mask of the first n lanes.
alignas(64) constexpr std::int32_t kFirstLanes[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

// Four int8 or two int16 codes in every 32-bit lane.
template <class Code>
__m256i quad(const Code* codes) {
  std::int32_t word;
  __builtin_memcpy(&word, codes, sizeof word);
  return _mm256_set1_epi32(word);
}

__m256i load(const std::byte* at) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
}
__m128i load_half(const std::byte* at) {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(at));
}

void prefetch(const std::byte* at, int bytes) {
  for (int b = 0; b < bytes; b += 64) _mm_prefetch(at + b, _MM_HINT_T1);
}

// 8 scales (or minima) from column `column` on.
template <int Bytes>
__m256 load_scales(const std::byte* at, int column) {
  if constexpr (Bytes == 4) return _mm256_castsi256_ps(load(at + 4 * column));
  return _mm256_cvtph_ps(load_half(at + 2 * column));
}

void store(const Target& out, int row, int column, __m256 result) {
  const int left = out.columns - column < 8 ? out.columns - column : 8;
  if (left <= 0) return;
  const __m256i mask = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirstLanes + 8 - left));
  float* c = out.c + static_cast<std::size_t>(row) * out.stride + column;
  if (out.bias != nullptr) result = _mm256_add_ps(result, _mm256_maskload_ps(out.bias + column, mask));
  if (out.add) result = _mm256_add_ps(_mm256_maskload_ps(c, mask), result);
  _mm256_maskstore_ps(c, mask, result);
}

// low | the upper bits of the codes of quad q where they are of 5 or 6 bits, moved `right` bits to the right.
// w: the group, at the columns.
template <GroupLayout L>
__m256i with_upper(__m256i low, const std::byte* w, int q, int right, __m256i mask) {
  if constexpr (L.upper_bits == 0) return low;
  const __m256i bits = load(w + L.upper_offset + q * L.upper_bits / 8 * 4 * kPanelColumns);
  const int left = 4 - q * L.upper_bits % 8 - right;
  const __m256i upper = left >= 0 ? _mm256_slli_epi16(bits, left) : _mm256_srli_epi16(bits, -left);
  return _mm256_or_si256(low, _mm256_and_si256(upper, mask));
}

// The int32 sums of R rows by NV vectors of columns over the part of one group that shares a scale;
// 8-bit activations.
template <PackedFormat F, int R, int NV>
struct Group {
  using Code = std::int8_t;
  static constexpr GroupLayout kLayout = group_layout(F);
  static constexpr int kQuads = 8 / kLayout.scales;  // quads per scale
  static constexpr bool kSigned = F == PackedFormat::w8;
  static constexpr int kFitting = kSigned ? 1 : kLayout.upper_bits == 0 ? 8 : 4 / kLayout.upper_bits;

  __m256i sums[R][NV];

  // -zero * (sum of activations), which codes with signs do without. h: which scale's part of the group. The
  // pair of half sums is weighed by vpmaddwd in one step.
  static __m256i start(const Rows<Code>& rows, int g, int h, int i) {
    constexpr int zero = -kLayout.zero & 0xffff;
    if constexpr (kSigned || kLayout.zero == 0) return _mm256_setzero_si256();
    const __m256i weights = _mm256_set1_epi32(kLayout.scales == 1 ? zero << 16 | zero : h == 0 ? zero : zero << 16);
    return _mm256_madd_epi16(_mm256_set1_epi32(rows.sum[static_cast<std::ptrdiff_t>(i) * (rows.k / kGroup) + g]),
                             weights);
  }

  // The codes of quad q as bytes.
  static __m256i codes_of(const std::byte* w, int q) {
    if constexpr (kSigned) return _mm256_xor_si256(load(w + q * 4 * kPanelColumns), _mm256_set1_epi8(-128));
    const __m256i codes = load(w + q / 2 * 4 * kPanelColumns);
    const __m256i low = _mm256_and_si256(q % 2 == 1 ? _mm256_srli_epi16(codes, 4) : codes, _mm256_set1_epi8(15));
    return with_upper<kLayout>(low, w, q, 0, _mm256_set1_epi8(kLayout.upper_mask));
  }

  // Sums of two products in int16.
  static __m256i products(__m256i weights, __m256i codes) {
    if constexpr (kSigned) return _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(codes, weights));
    return _mm256_maddubs_epi16(weights, codes);
  }

  // kFitting quads from quad `first` on, added up in int16.
  void add_run(const Rows<Code>& rows, const std::byte* w, int g, int first) {
    const std::int8_t* codes = rows.codes + static_cast<std::ptrdiff_t>(g) * kGroup;
    __m256i part[R][NV];
    DALSEGNO_UNROLL for (int q = first; q < first + kFitting; ++q) {
      __m256i weights[NV];
      DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) weights[j] = codes_of(w + 32 * j, q);
      DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
        const __m256i a = quad(codes + static_cast<std::ptrdiff_t>(i) * rows.k + 4 * q);
        DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
          const __m256i two = products(weights[j], a);
          part[i][j] = q == first ? two : _mm256_add_epi16(part[i][j], two);
          if (q + 1 < first + kFitting) continue;
          const __m256i before = first % kQuads == 0 ? start(rows, g, first / kQuads, i) : sums[i][j];
          sums[i][j] = _mm256_add_epi32(before, _mm256_madd_epi16(part[i][j], _mm256_set1_epi16(1)));
        }
      }
    }
  }

  void dot(const Rows<Code>& rows, const std::byte* w, int g, int h) {
    DALSEGNO_UNROLL for (int first = h * kQuads; first < (h + 1) * kQuads; first += kFitting) {
      add_run(rows, w, g, first);
    }
  }
};

// The same for 16-bit activations: vpmaddwd takes pairs of them, against the even and the odd bytes of a quad
// widened to 16 bits. Exact: 32 * 255 * 32639 is below 2^29.
template <PackedFormat F, int R, int NV>
struct WideGroup {
  using Code = std::int16_t;
  static constexpr GroupLayout kLayout = group_layout(F);
  static constexpr int kQuads = 8 / kLayout.scales;

  __m256i sums[R][NV];

  void start(const Rows<Code>& rows, int groups, int g, int h) {
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(i) * groups + g;
      __m256i s = _mm256_set1_epi32(rows.sum[2 * at]);
      if constexpr (kLayout.scales == 2) {
        const __m256i first = _mm256_set1_epi32(rows.sum[2 * at + 1]);
        s = h == 0 ? first : _mm256_sub_epi32(s, first);
      }
      s = _mm256_sub_epi32(_mm256_setzero_si256(), s);
      DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
        sums[i][j] =
            kLayout.zero == 0 ? _mm256_setzero_si256() : _mm256_slli_epi32(s, __builtin_ctz(kLayout.zero | 256));
      }
    }
  }

  // Codes 0 and 2 (odd: 1 and 3) of quad q of 8 columns, as int16.
  static __m256i pair_of(const std::byte* w, int q, bool odd) {
    constexpr int bits = kLayout.code_bits == 8 ? 8 : 4;
    const __m256i codes = load(w + (bits == 8 ? q : q / 2) * 4 * kPanelColumns);
    const int shift = (odd ? 8 : 0) + (bits == 4 && q % 2 == 1 ? 4 : 0);
    __m256i low = shift == 0 ? codes : _mm256_srli_epi16(codes, shift);
    if (shift + bits < 16) low = _mm256_and_si256(low, _mm256_set1_epi16(bits == 8 ? 255 : 15));
    return with_upper<kLayout>(low, w, q, odd ? 8 : 0, _mm256_set1_epi16(kLayout.upper_mask));
  }

  void dot(const Rows<Code>& rows, const std::byte* w, int g, int h) {
    start(rows, rows.k / kGroup, g, h);
    const Code* codes = rows.codes + static_cast<std::ptrdiff_t>(g) * kGroup;
    DALSEGNO_UNROLL for (int q = 2 * h * kQuads; q < 2 * (h + 1) * kQuads; ++q) {
      __m256i weights[NV];
      DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) weights[j] = pair_of(w + 32 * j, q / 2, q % 2 == 1);
      DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
        const __m256i a = quad(codes + static_cast<std::ptrdiff_t>(i) * rows.k + 2 * q);
        DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
          sums[i][j] = _mm256_add_epi32(sums[i][j], _mm256_madd_epi16(weights[j], a));
        }
      }
    }
  }
};

// acc = fma(float(sum of activations), minimum * scale_a, acc) for one group.
template <class G, int R, int NV>
void add_minimum(const Rows<typename G::Code>& rows, const std::byte* minima, int column, int g, __m256 (&acc)[R][NV]) {
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(i) * (rows.k / kGroup) + g;
    const __m256 a = _mm256_set1_ps(rows.scale[at]);
    const __m256 sum = _mm256_set1_ps(rows.total[at]);
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
      const __m256 minimum = load_scales<G::kLayout.scale_bytes>(minima, column + 8 * j);
      acc[i][j] = _mm256_fmadd_ps(sum, _mm256_mul_ps(minimum, a), acc[i][j]);
    }
  }
}

// R rows by 8 * NV columns of a panel, from `column` on. One accumulator per output, groups ascending; per
// group and scale acc = fma(float(dot), scale_w * scale_a, acc), then the same with the minimum and the sum.
template <class G, int R, int NV>
void tile(const Rows<typename G::Code>& rows, const std::byte* w, int column, Fetch fetch, const Target& out) {
  constexpr GroupLayout layout = G::kLayout;
  const int groups = rows.k / kGroup;
  __m256 acc[R][NV];
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = _mm256_setzero_ps();
  }
  for (int g = 0; g < groups; ++g, w += layout.bytes) {
    if constexpr (R == 1) prefetch(w + layout.bytes, layout.bytes);
    prefetch(fetch.at, 64 * fetch.lines);
    fetch.at += static_cast<std::ptrdiff_t>(64) * fetch.lines;
    DALSEGNO_UNROLL for (int h = 0; h < layout.scales; ++h) {
      G group;
      group.dot(rows, w + 4 * column, g, h);
      const std::byte* scales = w + layout.scale_offset + h * kPanelColumns * layout.scale_bytes;
      DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
        const __m256 a = _mm256_set1_ps(rows.scale[static_cast<std::ptrdiff_t>(i) * groups + g]);
        DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
          const __m256 s = _mm256_mul_ps(load_scales<layout.scale_bytes>(scales, column + 8 * j), a);
          acc[i][j] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(group.sums[i][j]), s, acc[i][j]);
        }
      }
    }
    if constexpr (layout.minimum) add_minimum<G>(rows, w + layout.minimum_offset, column, g, acc);
  }
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) store(out, i, column + 8 * j, acc[i][j]);
  }
}

// 8 weights of a float panel from element `at` on, exactly as f32.
template <PackedFormat F>
__m256 load_weights(const std::byte* panel, std::ptrdiff_t at) {
  if constexpr (F == PackedFormat::f32) return _mm256_castsi256_ps(load(panel + 4 * at));
  if constexpr (F == PackedFormat::f16) return _mm256_cvtph_ps(load_half(panel + 2 * at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(panel + 2 * at)), 16));
}

// R rows x [R, k] by 8 * NV columns of a panel of floats: k ascending, acc = fma(x, w, acc).
template <PackedFormat F, int R, int NV>
void float_tile(const float* x, int k, const std::byte* w, int column, const Target& out) {
  constexpr int row_bytes = kPanelColumns * (F == PackedFormat::f32 ? 4 : 2);
  __m256 acc[R][NV];
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = _mm256_setzero_ps();
  }
  for (std::ptrdiff_t at = 0; at < k; ++at) {
    if constexpr (R <= 2) prefetch(w + at * row_bytes + kAheadOfFloats, row_bytes);
    __m256 weights[NV];
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) weights[j] = load_weights<F>(w, at * kPanelColumns + column + 8 * j);
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      const __m256 a = _mm256_set1_ps(x[static_cast<std::ptrdiff_t>(i) * k + at]);
      DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = _mm256_fmadd_ps(a, weights[j], acc[i][j]);
    }
  }
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) store(out, i, column + 8 * j, acc[i][j]);
  }
}

// Where row `row` of the activations starts.
template <class Code>
Rows<Code> rows_from(const GemmArgs& args, std::ptrdiff_t row) {
  const QuantRows& quant = args.quant;
  const std::ptrdiff_t k = args.w->k;
  const std::ptrdiff_t at = row * (k / kGroup);
  if constexpr (sizeof(Code) == 1)
    return {quant.codes + row * k, quant.scale + at, quant.sum + at, quant.total + at, args.w->k};
  if constexpr (sizeof(Code) == 2)
    return {quant.codes16 + row * k, quant.scale + at, quant.sum + 2 * at, quant.total + at, args.w->k};
}

// Calls the tile of the height at hand: R is the tallest. Code: of the activations.
template <PackedFormat F, class Code, int R>
void run_tile(const GemmArgs& args, const std::byte* panel, int row, int height, PanelAhead& ahead, const Target& out) {
  if constexpr (R > 1) {
    if (height < R) return run_tile<F, Code, R - 1>(args, panel, row, height, ahead, out);
  }
  constexpr int vectors = R == 1 ? 4 : 2;
  const std::ptrdiff_t k = args.w->k;
  for (int column = 0; column < out.columns; column += 8 * vectors) {
    if constexpr (F >= PackedFormat::f32) {
      float_tile<F, R, vectors>(args.x + row * k, args.w->k, panel, column, out);
    } else {
      using G = std::conditional_t<sizeof(Code) == 1, Group<F, R, vectors>, WideGroup<F, R, vectors>>;
      tile<G, R, vectors>(rows_from<Code>(args, row), panel, column, ahead.take(args.w->k / kGroup), out);
    }
  }
}

// What `tiles` tiles of panel p fetch: the next one, be it the caller's.
template <PackedFormat F>
PanelAhead ahead_of(const GemmArgs& args, int p, int tiles) {
  const int groups = args.w->k / kGroup;
  const std::byte* panel = args.w->data + static_cast<std::size_t>(p) * args.w->panel_bytes;
  if (p + 1 < args.panel_end) return {panel + args.w->panel_bytes, group_layout(F).bytes / 64, tiles};
  return {args.after.data(), static_cast<int>(args.after.size() / 64) / groups, tiles};
}

// Rows are spread evenly over the fewest tiles: 5 rows are 3 + 2, not 4 + 1.
template <PackedFormat F, class Code>
void panels(const GemmArgs& args) {
  constexpr int tallest = F >= PackedFormat::f32 ? kTallestFloat : sizeof(Code) == 1 ? kTallest : kTallestWide;
  const int tiles = (args.m + tallest - 1) / tallest;
  for (int p = args.panel_begin; p < args.panel_end; ++p) {
    const std::byte* panel = args.w->data + static_cast<std::size_t>(p) * args.w->panel_bytes;
    const int first = p * kPanelColumns;
    const int columns = args.w->n - first < kPanelColumns ? args.w->n - first : kPanelColumns;
    Target out = {nullptr, args.c_stride, args.bias == nullptr ? nullptr : args.bias + first, columns, args.add};
    PanelAhead ahead = {nullptr, 0, 1};
    if constexpr (F < PackedFormat::f32) {
      if (args.m > 1) ahead = ahead_of<F>(args, p, 2 * tiles);
    }
    for (int i = 0, row = 0; i < tiles; ++i) {
      const int height = args.m / tiles + (i < args.m % tiles ? 1 : 0);
      out.c = args.c + static_cast<std::size_t>(row) * args.c_stride + first;
      run_tile<F, Code, tallest>(args, panel, row, height, ahead, out);
      row += height;
    }
  }
}

template <class Code>
void quantised_panels(const GemmArgs& args) {
  switch (args.w->format) {
    case PackedFormat::w8:
      return panels<PackedFormat::w8, Code>(args);
    case PackedFormat::w4:
      return panels<PackedFormat::w4, Code>(args);
    case PackedFormat::w5:
      return panels<PackedFormat::w5, Code>(args);
    case PackedFormat::w4_min:
      return panels<PackedFormat::w4_min, Code>(args);
    case PackedFormat::w4_min32:
      return panels<PackedFormat::w4_min32, Code>(args);
    case PackedFormat::w5_min32:
      return panels<PackedFormat::w5_min32, Code>(args);
    default:
      return panels<PackedFormat::w6_half, Code>(args);
  }
}

}  // namespace

void gemm(const GemmArgs& args) {
  switch (args.w->format) {
    case PackedFormat::f32:
      return panels<PackedFormat::f32, float>(args);
    case PackedFormat::f16:
      return panels<PackedFormat::f16, float>(args);
    case PackedFormat::bf16:
      return panels<PackedFormat::bf16, float>(args);
    default:
      if (args.quant.codes16 != nullptr) return quantised_panels<std::int16_t>(args);
      return quantised_panels<std::int8_t>(args);
  }
}

}  // namespace dalsegno::avx2
