#include "kernels/lanes_neon.hpp"
#include "kernels/levels.hpp"
#include "kernels/unroll.hpp"
#include "tensor/packing.hpp"

// A tile is 1 to 4 rows by 16 columns of a panel, or one row by all 32; a vector is 4 columns. SDOT takes four signed
// codes of a column by four of a row, the latter from a lane of a vector that holds 16. Stored codes are unsigned:
// those of 8 bits with a zero of 128 are flipped, the others fit, and -zero * (sum of activations) is added at the end.
// Tile sizes come from the register count, 16 sums beside their operands; they were not tuned on a machine.
namespace dalsegno::neon {
namespace {

#define DALSEGNO_INLINE inline __attribute__((always_inline))

constexpr int kTallest = 4;
constexpr int kQuadBytes = kPanelColumns * 4;  // of one quad of 8-bit codes, or of a pair of quads of 4-bit ones

// Rows [m, k] of quantised activations, from some row on. Code: int8 or int16.
template <class Code>
struct Rows {
  const Code* codes;
  const float* scale;
  const std::int32_t* sum;
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

// 4 scales (or minima) from column `column` on.
template <int Bytes>
float32x4_t load_scales(const std::byte* at, int column) {
  if constexpr (Bytes == 4) return vld1q_f32(reinterpret_cast<const float*>(at + 4 * column));
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const std::uint16_t*>(at + 2 * column))));
}

void store(const Target& out, int row, int column, float32x4_t result) {
  float* c = out.c + static_cast<std::size_t>(row) * out.stride + column;
  if (column + kVector <= out.columns) {
    if (out.bias != nullptr) result = vaddq_f32(result, vld1q_f32(out.bias + column));
    vst1q_f32(c, out.add ? vaddq_f32(vld1q_f32(c), result) : result);
    return;
  }
  float four[kVector];
  vst1q_f32(four, result);
  for (int i = 0; i < out.columns - column; ++i) {
    if (out.bias != nullptr) four[i] = four[i] + out.bias[column + i];
    c[i] = out.add ? c[i] + four[i] : four[i];
  }
}

// The sum of activations of group `at`, counted over all rows: of all of it, and of its first 16.
struct Sums {
  std::int32_t all;
  std::int32_t first;
};
DALSEGNO_INLINE Sums sums_of(const Rows<std::int8_t>& rows, std::ptrdiff_t at) {
  const std::int32_t first = static_cast<std::int16_t>(rows.sum[at]);
  return {first + (rows.sum[at] >> 16), first};
}
DALSEGNO_INLINE Sums sums_of(const Rows<std::int16_t>& rows, std::ptrdiff_t at) {
  return {rows.sum[2 * at], rows.sum[2 * at + 1]};
}

// SDOT's share of 16 codes: those of 8 bits, or of 16 bits, code = 256 * high + low, one of the two.
enum class Part { low, high };
template <Part>
DALSEGNO_INLINE int8x16_t load_codes(const std::int8_t* at) {
  return vld1q_s8(at);
}
template <Part kPart>
DALSEGNO_INLINE int8x16_t load_codes(const std::int16_t* at) {
  const uint8x16_t order = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};  // from k0 k2 k1 k3
  const int16x8_t bias = vdupq_n_s16(kPart == Part::high ? 128 : 0);
  const int8x16_t a = vreinterpretq_s8_s16(vaddq_s16(vld1q_s16(at), bias));
  const int8x16_t b = vreinterpretq_s8_s16(vaddq_s16(vld1q_s16(at + 8), bias));
  return vqtbl1q_s8(kPart == Part::high ? vuzp2q_s8(a, b) : vuzp1q_s8(a, b), order);
}

// The int32 sums of R rows by NV vectors of columns over the part of one group that shares a scale.
// 16-bit activations take two passes. Exact: 32 * 255 * 32639 is below 2^29.
template <PackedFormat F, class C, int R, int NV>
struct Group {
  using Code = C;
  static constexpr GroupLayout kLayout = group_layout(F);
  static constexpr bool kFlip = kLayout.zero == 128;

  int32x4_t sums[R][NV];

  // -zero * (sum of activations), onto what there is. h: which scale's part of the group.
  DALSEGNO_INLINE void add_zero(const Rows<Code>& rows, int groups, int g, int h) {
    if constexpr (kFlip || kLayout.zero == 0) return;
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      const Sums sum = sums_of(rows, static_cast<std::ptrdiff_t>(i) * groups + g);
      const std::int32_t part = kLayout.scales == 1 ? sum.all : h == 0 ? sum.first : sum.all - sum.first;
      const int32x4_t start = vdupq_n_s32(-kLayout.zero * part);
      DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) sums[i][j] = vaddq_s32(sums[i][j], start);
    }
  }

  template <int kLane>
  DALSEGNO_INLINE void add(int j, int8x16_t weights, const int8x16_t (&a)[R]) {
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) sums[i][j] = vdotq_laneq_s32(sums[i][j], weights, a[i], kLane);
  }

  // Quad kLane of this half of the group.
  template <int kLane>
  DALSEGNO_INLINE void add_bytes(const std::byte* w, const int8x16_t (&a)[R]) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
      const int8x16_t codes = vld1q_s8(reinterpret_cast<const std::int8_t*>(w + kLane * kQuadBytes + 16 * j));
      add<kLane>(j, kFlip ? veorq_s8(codes, vdupq_n_s8(-128)) : codes, a);
    }
  }

  // The nibbles of quad `quad` with the bits above, where there are any. w: the group, at the columns.
  DALSEGNO_INLINE static int8x16_t with_upper(uint8x16_t nibbles, const std::byte* w, int quad) {
    if constexpr (kLayout.upper_bits > 0) {
      const int bit = quad * kLayout.upper_bits;
      const auto* at = reinterpret_cast<const std::uint8_t*>(w + kLayout.upper_offset + bit / 8 * kQuadBytes);
      const uint8x16_t upper = vshlq_u8(vld1q_u8(at), vdupq_n_s8(static_cast<std::int8_t>(4 - bit % 8)));
      nibbles = vorrq_u8(nibbles, vandq_u8(upper, vdupq_n_u8(kLayout.upper_mask)));
    }
    return vreinterpretq_s8_u8(nibbles);
  }

  // Quads 2 * kPair and 2 * kPair + 1 of this half. w: of the group.
  template <int kPair>
  DALSEGNO_INLINE void add_nibbles(const std::byte* w, int half, const int8x16_t (&a)[R]) {
    const std::byte* pair = w + (2 * half + kPair) * kQuadBytes;
    const int quad = 4 * half + 2 * kPair;
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
      const uint8x16_t codes = vld1q_u8(reinterpret_cast<const std::uint8_t*>(pair + 16 * j));
      add<2 * kPair>(j, with_upper(vandq_u8(codes, vdupq_n_u8(15)), w + 16 * j, quad), a);
      add<2 * kPair + 1>(j, with_upper(vshrq_n_u8(codes, 4), w + 16 * j, quad + 1), a);
    }
  }

  // codes: [R rows, stride k], at the group.
  template <Part kPart>
  DALSEGNO_INLINE void add_half(const std::byte* w, const Code* codes, int k, int half) {
    int8x16_t a[R];
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      a[i] = load_codes<kPart>(codes + static_cast<std::ptrdiff_t>(i) * k + 16 * half);
    }
    if constexpr (kLayout.code_bits < 8) {
      add_nibbles<0>(w, half, a);
      add_nibbles<1>(w, half, a);
    } else {
      w += half * 4 * kQuadBytes;
      add_bytes<0>(w, a);
      add_bytes<1>(w, a);
      add_bytes<2>(w, a);
      add_bytes<3>(w, a);
    }
  }

  template <Part kPart>
  DALSEGNO_INLINE void add_part(const std::byte* w, const Code* codes, int k, int h) {
    add_half<kPart>(w, codes, k, h);
    if constexpr (kLayout.scales == 1) add_half<kPart>(w, codes, k, 1);
  }

  DALSEGNO_INLINE void dot(const std::byte* w, const Code* codes, int k, int h) {
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) sums[i][j] = vdupq_n_s32(0);
    }
    if constexpr (sizeof(Code) == 2) {
      add_part<Part::high>(w, codes, k, h);
      DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
        DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) sums[i][j] = vshlq_n_s32(sums[i][j], 8);
      }
    }
    add_part<Part::low>(w, codes, k, h);
  }
};

// acc = fma(float(sum of activations), minimum * scale_a, acc) for one group.
template <class Maths, class G, int R, int NV>
DALSEGNO_INLINE void add_minimum(const Rows<typename G::Code>& rows, const std::byte* minima, int column, int g,
                                 float32x4_t (&acc)[R][NV]) {
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(i) * (rows.k / kGroup) + g;
    const float32x4_t sum = vdupq_n_f32(static_cast<float>(sums_of(rows, at).all));
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
      const float32x4_t minimum = load_scales<G::kLayout.scale_bytes>(minima, column + kVector * j);
      acc[i][j] = Maths::fma(acc[i][j], sum, Maths::mul(minimum, vdupq_n_f32(rows.scale[at])));
    }
  }
}

// R rows by NV vectors of columns of a panel, from `column` on. One accumulator per output, groups ascending; per
// group and scale acc = fma(float(dot), scale_w * scale_a, acc), then the same with the minimum and the sum.
template <class Maths, class G, int R, int NV>
DALSEGNO_INLINE void accumulate(const Rows<typename G::Code>& rows, const std::byte* w, int column,
                                float32x4_t (&acc)[R][NV]) {
  constexpr GroupLayout layout = G::kLayout;
  const int groups = rows.k / kGroup;
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = vdupq_n_f32(0.0F);
  }
  for (int g = 0; g < groups; ++g, w += layout.bytes) {
    const typename G::Code* codes = rows.codes + static_cast<std::ptrdiff_t>(g) * kGroup;
    for (int h = 0; h < layout.scales; ++h) {
      G group;
      group.dot(w + 4 * column, codes, rows.k, h);
      group.add_zero(rows, groups, g, h);
      const std::byte* scales = w + layout.scale_offset + h * kPanelColumns * layout.scale_bytes;
      DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
        const float32x4_t scale = load_scales<layout.scale_bytes>(scales, column + kVector * j);
        DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
          const float32x4_t a = vdupq_n_f32(rows.scale[static_cast<std::ptrdiff_t>(i) * groups + g]);
          acc[i][j] = Maths::fma(acc[i][j], vcvtq_f32_s32(group.sums[i][j]), Maths::mul(scale, a));
        }
      }
    }
    if constexpr (layout.minimum) add_minimum<Maths, G>(rows, w + layout.minimum_offset, column, g, acc);
  }
}

// 4 weights of a float panel from element `at` on, exactly as f32.
template <PackedFormat F>
float32x4_t load_weights(const std::byte* panel, std::ptrdiff_t at) {
  if constexpr (F == PackedFormat::f32) return vld1q_f32(reinterpret_cast<const float*>(panel + 4 * at));
  const uint16x4_t words = vld1_u16(reinterpret_cast<const std::uint16_t*>(panel + 2 * at));
  if constexpr (F == PackedFormat::f16) return vcvt_f32_f16(vreinterpret_f16_u16(words));
  return floats(vshll_n_u16(words, 16));
}

// R rows x [R, k] by NV vectors of columns of a panel of floats: k ascending, acc = fma(x, w, acc).
template <class Maths, PackedFormat F, int R, int NV>
DALSEGNO_INLINE void accumulate_floats(const float* x, int k, const std::byte* w, int column,
                                       float32x4_t (&acc)[R][NV]) {
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) acc[i][j] = vdupq_n_f32(0.0F);
  }
  for (std::ptrdiff_t at = 0; at < k; ++at) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) {
      const float32x4_t weights = load_weights<F>(w, at * kPanelColumns + column + kVector * j);
      DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
        acc[i][j] = Maths::fma(acc[i][j], weights, vdupq_n_f32(x[static_cast<std::ptrdiff_t>(i) * k + at]));
      }
    }
  }
}

// Where row `row` of the activations starts.
template <class Code>
Rows<Code> rows_from(const GemmArgs& args, std::ptrdiff_t row) {
  const QuantRows& quant = args.quant;
  const std::ptrdiff_t k = args.w->k;
  const std::ptrdiff_t at = row * (k / kGroup);
  if constexpr (sizeof(Code) == 1) return {quant.codes + row * k, quant.scale + at, quant.sum + at, args.w->k};
  if constexpr (sizeof(Code) == 2) return {quant.codes16 + row * k, quant.scale + at, quant.sum + 2 * at, args.w->k};
}

// A tile, and once more, exactly, where a flushed result may have to be 2^-126. What is added afterwards cannot.
// Code: of the activations.
template <class Maths, PackedFormat F, class Code, int R, int NV>
[[gnu::noinline]] void tile(const GemmArgs& args, const std::byte* panel, int row, int column, const Target& out) {
  float32x4_t acc[R][NV];
  if constexpr (F >= PackedFormat::f32) {
    const std::ptrdiff_t k = args.w->k;
    accumulate_floats<Maths, F>(args.x + row * k, args.w->k, panel, column, acc);
  } else {
    accumulate<Maths, Group<F, Code, R, NV>>(rows_from<Code>(args, row), panel, column, acc);
  }
  if constexpr (Maths::kMustAsk) {
    DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
      DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) settle(acc[i][j]);
    }
    if (underflowed()) {
      tile<Exact, F, Code, R, NV>(args, panel, row, column, out);
      return forget_underflow();
    }
  }
  DALSEGNO_UNROLL for (int i = 0; i < R; ++i) {
    DALSEGNO_UNROLL for (int j = 0; j < NV; ++j) store(out, i, column + kVector * j, acc[i][j]);
  }
}

// Calls the tile of the height at hand: R is the tallest.
template <PackedFormat F, class Code, int R>
void run_tile(const GemmArgs& args, const std::byte* panel, int row, int height, const Target& out) {
  if constexpr (R > 1) {
    if (height < R) return run_tile<F, Code, R - 1>(args, panel, row, height, out);
  }
  constexpr int vectors = R == 1 ? 8 : 4;
  for (int column = 0; column < out.columns; column += kVector * vectors) {
    tile<Quick, F, Code, R, vectors>(args, panel, row, column, out);
  }
}

// Rows are spread evenly over the fewest tiles: 5 rows are 3 + 2, not 4 + 1.
template <PackedFormat F, class Code>
void panels(const GemmArgs& args) {
  const int tiles = (args.m + kTallest - 1) / kTallest;
  forget_underflow();
  for (int p = args.panel_begin; p < args.panel_end; ++p) {
    const std::byte* panel = args.w->data + static_cast<std::size_t>(p) * args.w->panel_bytes;
    const int first = p * kPanelColumns;
    const int columns = args.w->n - first < kPanelColumns ? args.w->n - first : kPanelColumns;
    Target out = {nullptr, args.c_stride, args.bias == nullptr ? nullptr : args.bias + first, columns, args.add};
    for (int i = 0, row = 0; i < tiles; ++i) {
      const int height = args.m / tiles + (i < args.m % tiles ? 1 : 0);
      out.c = args.c + static_cast<std::size_t>(row) * args.c_stride + first;
      run_tile<F, Code, kTallest>(args, panel, row, height, out);
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

}  // namespace dalsegno::neon
