#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels/levels.hpp"
#include "kernels/unroll.hpp"
#include "tensor/packing.hpp"

// A tile is 1 to 6 rows by one panel (two vectors of 16 columns), or up to 8 where it has the panel to itself. Stored
// codes are unsigned (code + zero), activations signed, as vpdpbusd takes them; every int32 sum starts at -zero * (sum
// of activations), so the zero point costs nothing per product. Benchmark (bench/kernels_gemm): heights 4 to 7 are
// equal; from 7 on some sums are kept in memory. The ceiling is 80% of the vpdpbusd peak: 16 of them per group and row
// go with 4 multiplications and fmas on the same ports.
namespace dalsegno::avx512 {
namespace {

constexpr int kTallest = 6;
constexpr int kTallestAlone = 8;
constexpr int kTallestFloat = 12;
// What a tile prefetches while it computes. `own` is its panel's groups to come, `lines` what it is told to: the next
// panel, or an Ahead. near: into L1, far: into L2.
enum class Fetch { none, own_far, own_near, lines_far, lines_near };
constexpr bool is_own(Fetch fetch) {
  return fetch == Fetch::own_far || fetch == Fetch::own_near;
}
constexpr bool is_near(Fetch fetch) {
  return fetch == Fetch::own_near || fetch == Fetch::lines_near;
}
// `lines` per group. Two tiles of a panel fetch all of the next one, of which a group is 10 lines of 4-bit or 17 of
// 8-bit codes; where one of two is enough, the other is left to an Ahead. More is slower: 16 or 17 by a
// seventh to a third at 8 rows.
constexpr int kLinesFar = 10;
constexpr int kLinesNear = 9;
// Groups between what `own` reads and what it fetches.
constexpr int kOwnFar = 1;
constexpr int kOwnNear = 6;
// Which tiles do so. Benchmark, of the weights of a step from memory on two threads:
// Zen 4, 32 KiB of L1. Into L1, which seems to have too few buffers for lines that wait for memory, all is slower than
// without. Into L2 and one group ahead, so that from there on the processor sees the stream, `own` gains 5 to 7% for
// one row of 4-bit codes and 10 to 20% of 8-bit ones, as much as reading without arithmetic takes; from five rows of
// 4-bit codes on it costs 5 to 20%. Six rows are faster as two tiles of three that fetch the next panel, by 15%.
//
// Zen 5, 48 KiB. Into L1 instead of L2 `own` takes 3 to 14% less time, 3 to 8 KiB ahead alike, and `lines` up to 15% at
// 6 to 12 rows. Six rows take 6 to 10% less as one tile. Of whole steps, in turns, seven take 1 to 8% less, and eight
// 6% less of 8-bit codes, of 4-bit ones 0 to 5% less or, when memory is slow, 6 to 8% more; nine to twelve gain
// nothing.
struct Fetching {
  bool near;
  int own4;    // rows of a product up to which it fetches its own panel, of 4- to 6-bit codes; of 8-bit ones: alone8
  int alone4;  // rows of a product up to which it is one tile
  int alone8;
};
constexpr Fetching kSmallL1 = {false, 4, 5, 5};
constexpr Fetching kLargeL1 = {true, 7, 7, kTallestAlone};
static_assert(kSmallL1.own4 < kTallest && kSmallL1.alone8 < kTallest);  // run_tile() has no taller `own_far`
static_assert(kLargeL1.own4 >= kLargeL1.alone4);                        // nor a taller tile that fetches nothing
constexpr int kOwnRowsFloat = 2;
constexpr int kAheadOfFloats = 1024;  // bytes, as a group of 8-bit codes
constexpr int kLeastLines = 3;        // rows of a tile that fetches lines
constexpr int kMostLines = 96;        // rows of a product whose tiles fetch the next panel

// Rows [m, k] of quantised activations, from some row on. Code: int8 or int16.
template <class Code>
struct Rows {
  const Code* codes;
  const float* scale;
  const std::int32_t* sum;
  const float* total;
  int k;
};

// [next, end), fetched kLinesNear or kLinesFar lines per group.
struct Lines {
  const std::byte* next;
  const std::byte* end;
  bool near;
};

// Hands out what comes next in pieces for the tiles of a panel: the next panel, then an Ahead.
class AheadCursor {
 public:
  // near: where the next panel goes. An Ahead is needed later.
  AheadCursor(const Ahead& ahead, int groups, bool near) : ahead_(ahead), groups_(groups), near_(near) {}
  void start_panel(const std::byte* next, std::size_t bytes) {
    panel_ = next;
    panel_end_ = next + bytes;
  }
  Lines take() {
    if (panel_ < panel_end_) {
      const std::byte* begin = panel_;
      panel_ += piece(near_ ? kLinesNear : kLinesFar);
      return {begin, panel_ < panel_end_ ? panel_ : panel_end_, near_};
    }
    if (page_ >= ahead_.count) return {nullptr, nullptr, false};
    const std::byte* run = ahead_.pages[page_ * ahead_.stride] + ahead_.offset;
    const std::size_t begin = at_;
    at_ += piece(kLinesFar);
    if (at_ < ahead_.bytes) return {run + begin, run + at_, false};
    at_ = 0;
    ++page_;
    return {run + begin, run + ahead_.bytes, false};
  }

 private:
  // Bytes that a tile fetches.
  [[nodiscard]] std::size_t piece(int lines) const { return static_cast<std::size_t>(groups_ * lines * 64); }

  const Ahead& ahead_;
  const int groups_;
  const bool near_;
  const std::byte* panel_ = nullptr;
  const std::byte* panel_end_ = nullptr;
  int page_ = 0;
  std::size_t at_ = 0;
};

// Where a tile's result goes: element (0, 0) of the tile, its valid columns and what is added.
struct Target {
  float* c;
  std::size_t stride;
  const float* bias;  // of the panel's first column, or nullptr
  __mmask16 columns[2];
  bool add;
};

// Four int8 or two int16 codes in every 32-bit lane.
template <class Code>
__m512i quad(const Code* codes) {
  std::int32_t word;
  __builtin_memcpy(&word, codes, sizeof word);
  return _mm512_set1_epi32(word);
}

template <bool kNear>
inline __attribute__((always_inline)) void prefetch(const std::byte* at, int lines) {
  DALSEGNO_UNROLL for (int i = 0; i < lines; ++i) _mm_prefetch(at + 64 * i, kNear ? _MM_HINT_T0 : _MM_HINT_T1);
}

// kLines lines from `at` on, fetched while a group of kQuads quads is multiplied, spread over its quads. In one burst
// at its begin products of 10 and 12 rows take 2 to 9% longer on a Zen 5; as a loop that is not unrolled, half as long
// again.
template <int kLines, bool kNear>
struct Spread {
  static constexpr int kQuads = kGroup / 4;
  static constexpr int kFirst = kLines % kQuads;
  static constexpr int kEach = kLines / kQuads;
  const std::byte* at;
  void begin() const { prefetch<kNear>(at, kFirst); }
  void quad(int q) const { prefetch<kNear>(at + (kFirst + q * kEach) * 64, kEach); }
};

__m512 load_scales(const std::byte* at, int scale_bytes) {
  if (scale_bytes == 4) return _mm512_load_ps(at);
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
}

void store(const Target& out, int row, int j, __m512 result) {
  float* c = out.c + static_cast<std::size_t>(row) * out.stride + 16 * j;
  const __mmask16 mask = out.columns[j];
  if (out.bias != nullptr) result = _mm512_add_ps(result, _mm512_maskz_loadu_ps(mask, out.bias + 16 * j));
  if (out.add) result = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c), result);
  _mm512_mask_storeu_ps(c, mask, result);
}

// low | the upper bits of the codes of quad q where they are of 5 or 6 bits, moved `right` bits to the right.
// w: the group, at the columns.
template <GroupLayout L>
__m512i with_upper(__m512i low, const std::byte* w, int q, int right, __m512i mask) {
  if constexpr (L.upper_bits == 0) return low;
  constexpr int kOrAnd = 0xf8;  // a | (b & c)
  const __m512i bits = _mm512_load_si512(w + L.upper_offset + q * L.upper_bits / 8 * 4 * kPanelColumns);
  const int left = 4 - q * L.upper_bits % 8 - right;
  const __m512i upper = left >= 0 ? _mm512_slli_epi16(bits, static_cast<unsigned>(left))
                                  : _mm512_srli_epi16(bits, static_cast<unsigned>(-left));
  return _mm512_ternarylogic_epi64(low, upper, mask, kOrAnd);
}

// The int32 sums of R rows by a panel over the part of one group that shares a scale; 8-bit activations.
template <PackedFormat F, int R>
struct Group {
  using Code = std::int8_t;
  static constexpr GroupLayout kLayout = group_layout(F);
  static constexpr int kQuads = 8 / kLayout.scales;  // quads per scale

  __m512i sums[R][2];

  // -zero * (sum of activations). h: which scale's part of the group. The pair of half sums is weighed by
  // vpmaddwd in one step.
  void start(const Rows<Code>& rows, int groups, int g, int h) {
    constexpr int zero = -kLayout.zero & 0xffff;
    const __m512i weights = _mm512_set1_epi32(kLayout.scales == 1 ? zero << 16 | zero : h == 0 ? zero : zero << 16);
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      const __m512i s = _mm512_set1_epi32(rows.sum[static_cast<std::ptrdiff_t>(i) * groups + g]);
      sums[i][0] = sums[i][1] = kLayout.zero == 0 ? _mm512_setzero_si512() : _mm512_madd_epi16(s, weights);
    }
  }

  // codes: [R rows, stride rows.k], at this quad.
  void add(const __m512i (&weights)[2], const std::int8_t* codes, int k) {
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      const __m512i a = quad(codes + static_cast<std::ptrdiff_t>(i) * k);
      DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], weights[j], a);
    }
  }

  template <class Prefetches>
  void dot(const std::byte* w, const std::int8_t* codes, int k, int h, const Prefetches& ahead) {
    DALSEGNO_UNROLL for (int q = h * kQuads; q < (h + 1) * kQuads; ++q) {
      const std::byte* at = w + (kLayout.code_bits == 8 ? q : q / 2) * 4 * kPanelColumns;
      __m512i weights[2];
      DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) {
        weights[j] = _mm512_load_si512(at + 64 * j);
        if (kLayout.code_bits < 8) {
          if (q % 2 == 1) weights[j] = _mm512_srli_epi16(weights[j], 4);
          weights[j] = _mm512_and_si512(weights[j], _mm512_set1_epi8(15));
        }
        weights[j] = with_upper<kLayout>(weights[j], w + 64 * j, q, 0, _mm512_set1_epi8(kLayout.upper_mask));
      }
      ahead.quad(q);
      add(weights, codes + 4 * q, k);
    }
  }
};

// The same for 16-bit activations: vpdpwssd takes pairs of them, against the even and the odd bytes of a quad
// widened to 16 bits. Exact: 32 * 255 * 32639 is below 2^29.
template <PackedFormat F, int R>
struct WideGroup {
  using Code = std::int16_t;
  static constexpr GroupLayout kLayout = group_layout(F);
  static constexpr int kQuads = 8 / kLayout.scales;

  __m512i sums[R][2];

  void start(const Rows<Code>& rows, int groups, int g, int h) {
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(i) * groups + g;
      __m512i s = _mm512_set1_epi32(rows.sum[2 * at]);
      if constexpr (kLayout.scales == 2) {
        const __m512i first = _mm512_set1_epi32(rows.sum[2 * at + 1]);
        s = h == 0 ? first : _mm512_sub_epi32(s, first);
      }
      s = _mm512_sub_epi32(_mm512_setzero_si512(), s);
      sums[i][0] = sums[i][1] =
          kLayout.zero == 0 ? _mm512_setzero_si512() : _mm512_slli_epi32(s, __builtin_ctz(kLayout.zero | 256));
    }
  }

  // Codes 0 and 2 (odd: 1 and 3) of quad q of 16 columns, as int16.
  static __m512i pair_of(const std::byte* w, int q, bool odd) {
    constexpr int bits = kLayout.code_bits == 8 ? 8 : 4;
    const __m512i codes = _mm512_load_si512(w + (bits == 8 ? q : q / 2) * 4 * kPanelColumns);
    const int shift = (odd ? 8 : 0) + (bits == 4 && q % 2 == 1 ? 4 : 0);
    __m512i low = shift == 0 ? codes : _mm512_srli_epi16(codes, static_cast<unsigned>(shift));
    if (shift + bits < 16) low = _mm512_and_si512(low, _mm512_set1_epi16(bits == 8 ? 255 : 15));
    return with_upper<kLayout>(low, w, q, odd ? 8 : 0, _mm512_set1_epi16(kLayout.upper_mask));
  }

  template <class Prefetches>
  void dot(const std::byte* w, const Code* codes, int k, int h, const Prefetches& ahead) {
    DALSEGNO_UNROLL for (int q = 2 * h * kQuads; q < 2 * (h + 1) * kQuads; ++q) {
      if (q % 2 == 0) ahead.quad(q / 2);
      const __m512i weights[2] = {pair_of(w, q / 2, q % 2 == 1), pair_of(w + 64, q / 2, q % 2 == 1)};
      DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
        const __m512i a = quad(codes + static_cast<std::ptrdiff_t>(i) * k + 2 * q);
        DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) sums[i][j] = _mm512_dpwssd_epi32(sums[i][j], weights[j], a);
      }
    }
  }
};

// acc = fma(float(sum of activations), minimum * scale_a, acc) for one group.
template <class G, int R>
void add_minimum(const Rows<typename G::Code>& rows, const std::byte* minima, int g, __m512 (&acc)[R][2]) {
  constexpr int bytes = G::kLayout.scale_bytes;
  const __m512 minimum[2] = {load_scales(minima, bytes), load_scales(minima + 16 * bytes, bytes)};
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(i) * (rows.k / kGroup) + g;
    const __m512 a = _mm512_set1_ps(rows.scale[at]);
    const __m512 sum = _mm512_set1_ps(rows.total[at]);
    DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) {
      acc[i][j] = _mm512_fmadd_ps(sum, _mm512_mul_ps(minimum[j], a), acc[i][j]);
    }
  }
}

// R rows by one panel. One accumulator per output, groups ascending; per group and scale
// acc = fma(float(dot), scale_w * scale_a, acc), then the same with the minimum and the sum.
template <class G, int R, Fetch kFetch>
__attribute__((noinline)) void tile(const Rows<typename G::Code>& rows, const std::byte* w, Lines lines,
                                    const Target& out) {
  constexpr GroupLayout layout = G::kLayout;
  constexpr int kLines = kFetch == Fetch::none ? 0
                         : is_own(kFetch)      ? layout.bytes / 64
                         : is_near(kFetch)     ? kLinesNear
                                               : kLinesFar;
  constexpr int kAhead = is_near(kFetch) ? kOwnNear : kOwnFar;
  const int groups = rows.k / kGroup;
  __m512 acc[R][2];
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
  for (int g = 0; g < groups; ++g, w += layout.bytes) {
    Spread<kLines, is_near(kFetch)> ahead{w + kAhead * layout.bytes};
    if constexpr (kFetch == Fetch::lines_far || kFetch == Fetch::lines_near) {
      ahead.at = lines.next < lines.end ? lines.next : w;  // what is in L1 already costs nothing
      lines.next += 64 * kLines;
    }
    ahead.begin();
    const typename G::Code* codes = rows.codes + static_cast<std::ptrdiff_t>(g) * kGroup;
    DALSEGNO_UNROLL for (int h = 0; h < layout.scales; ++h) {
      G group;
      group.start(rows, groups, g, h);
      group.dot(w, codes, rows.k, h, ahead);
      __m512 scale[2];
      DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) {
        scale[j] = load_scales(w + layout.scale_offset + (2 * h + j) * 16 * layout.scale_bytes, layout.scale_bytes);
      }
      DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
        const __m512 a = _mm512_set1_ps(rows.scale[static_cast<std::ptrdiff_t>(i) * groups + g]);
        DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) {
          acc[i][j] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(group.sums[i][j]), _mm512_mul_ps(scale[j], a), acc[i][j]);
        }
      }
    }
    if constexpr (layout.minimum) add_minimum<G>(rows, w + layout.minimum_offset, g, acc);
  }
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) store(out, i, j, acc[i][j]);
  }
}

// Both vectors of row k of a float panel, exactly as f32.
template <PackedFormat F>
void load_weights(const std::byte* panel, std::ptrdiff_t k, __m512 (&out)[2]) {
  DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) {
    const std::ptrdiff_t at = k * kPanelColumns + 16 * j;
    if constexpr (F == PackedFormat::f32) {
      out[j] = _mm512_load_ps(panel + 4 * at);
      continue;
    }
    const __m256i words = _mm256_load_si256(reinterpret_cast<const __m256i*>(panel + 2 * at));
    out[j] = F == PackedFormat::f16 ? _mm512_cvtph_ps(words)
                                    : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
  }
}

// R rows x [R, k] by one panel of floats: k ascending, acc = fma(x, w, acc).
template <PackedFormat F, int R>
__attribute__((noinline)) void float_tile(const float* x, int k, const std::byte* w, const Target& out) {
  constexpr int row_bytes = kPanelColumns * (F == PackedFormat::f32 ? 4 : 2);
  __m512 acc[R][2];
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) acc[i][0] = acc[i][1] = _mm512_setzero_ps();
  for (std::ptrdiff_t at = 0; at < k; ++at) {
    if constexpr (R <= kOwnRowsFloat) prefetch<false>(w + at * row_bytes + kAheadOfFloats, row_bytes / 64);
    __m512 weights[2];
    load_weights<F>(w, at, weights);
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      const __m512 a = _mm512_set1_ps(x[static_cast<std::ptrdiff_t>(i) * k + at]);
      DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) acc[i][j] = _mm512_fmadd_ps(a, weights[j], acc[i][j]);
    }
  }
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < 2; ++j) store(out, i, j, acc[i][j]);
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
void run_tile(const GemmArgs& args, const std::byte* panel, int row, int height, const Fetching& fetching, Lines lines,
              const Target& out) {
  if constexpr (R > 1) {
    if (height < R) return run_tile<F, Code, R - 1>(args, panel, row, height, fetching, lines, out);
  }
  if constexpr (F >= PackedFormat::f32) {
    const std::ptrdiff_t k = args.w->k;
    float_tile<F, R>(args.x + row * k, args.w->k, panel, out);
  } else {
    using G = std::conditional_t<sizeof(Code) == 1, Group<F, R>, WideGroup<F, R>>;
    // Forms of their own, since fetching costs where nothing waits.
    const Rows<Code> rows = rows_from<Code>(args, row);
    if constexpr (R > kTallest) return tile<G, R, Fetch::own_near>(rows, panel, lines, out);
    const int own = group_layout(F).code_bits < 8 ? fetching.own4 : fetching.alone8;
    if (R <= own && height == args.m) {
      if (fetching.near) return tile<G, R, Fetch::own_near>(rows, panel, lines, out);
      if constexpr (R < kTallest) return tile<G, R, Fetch::own_far>(rows, panel, lines, out);
    }
    if constexpr (R >= kLeastLines) {
      if (lines.next < lines.end) {
        if (lines.near) return tile<G, R, Fetch::lines_near>(rows, panel, lines, out);
        return tile<G, R, Fetch::lines_far>(rows, panel, lines, out);
      }
    }
    tile<G, R, Fetch::none>(rows, panel, lines, out);
  }
}

// Rows of a product up to which it is one tile.
template <PackedFormat F, class Code>
int most_alone(const Fetching& fetching) {
  if constexpr (F >= PackedFormat::f32) return kTallestFloat;
  const int most = group_layout(F).code_bits < 8 ? fetching.alone4 : fetching.alone8;
  return sizeof(Code) == 1 || most > kTallest ? most : kTallest;
}

// Rows are spread evenly over the fewest tiles: 8 rows are 4 + 4, not 6 + 2.
template <PackedFormat F, class Code>
void panels(const GemmArgs& args) {
  constexpr bool floats = F >= PackedFormat::f32;
  constexpr int tallest = floats ? kTallestFloat : kTallest;
  constexpr int tallest_alone = floats ? kTallestFloat : kTallestAlone;
  const Fetching& fetching = args.large_l1 ? kLargeL1 : kSmallL1;
  const int alone = most_alone<F, Code>(fetching);
  const int tiles = args.m <= alone ? 1 : args.m <= tallest ? 2 : (args.m + tallest - 1) / tallest;
  const bool looks = F < PackedFormat::f32 && tiles > 1 && args.m <= kMostLines;
  AheadCursor ahead(args.ahead, args.w->k / kGroup, fetching.near);
  for (int p = args.panel_begin; p < args.panel_end; ++p) {
    const std::byte* panel = args.w->data + static_cast<std::size_t>(p) * args.w->panel_bytes;
    const int first = p * kPanelColumns;
    const int columns = args.w->n - first < kPanelColumns ? args.w->n - first : kPanelColumns;
    const std::uint32_t mask = columns == kPanelColumns ? 0xffffffffU : (1U << columns) - 1;
    Target out = {args.c + first,
                  args.c_stride,
                  args.bias == nullptr ? nullptr : args.bias + first,
                  {static_cast<__mmask16>(mask), static_cast<__mmask16>(mask >> 16)},
                  args.add};
    const bool is_last = p + 1 == args.panel_end;
    const std::byte* next = is_last ? args.after.data() : panel + args.w->panel_bytes;
    if (looks && next != nullptr) ahead.start_panel(next, is_last ? args.after.size() : args.w->panel_bytes);
    for (int i = 0, row = 0; i < tiles; ++i) {
      const int height = args.m / tiles + (i < args.m % tiles ? 1 : 0);
      out.c = args.c + static_cast<std::size_t>(row) * args.c_stride + first;
      run_tile<F, Code, tallest_alone>(args, panel, row, height, fetching, ahead.take(), out);
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

}  // namespace dalsegno::avx512
