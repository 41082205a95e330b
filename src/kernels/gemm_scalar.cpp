#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/lanes_scalar.hpp"
#include "kernels/levels.hpp"
#include "tensor/half.hpp"
#include "tensor/packing.hpp"

// The specification of the matrix kernels. Products of codes are plain int16 by int16 loops that a
// baseline compiler turns into vector code; the float chain of an output is written out once, in finish_group().
namespace dalsegno::scalar {
namespace {

constexpr int kHalf = kGroup / 2;
// Rows that share one decoding of a group: their accumulators and codes stay in L1.
constexpr int kRowBlock = 32;

// One group of a panel, decoded: codes without the zero point, scales and minima as f32.
struct Group {
  alignas(64) std::int16_t codes[kPanelColumns][kGroup];
  float scale[2][kPanelColumns];  // of the first and second half of k; equal where the format has one
  float minimum[kPanelColumns];   // 0 where the format has none
};

float load_float(const std::byte* at, int bytes) {
  if (bytes == 2) {
    std::uint16_t half;
    std::memcpy(&half, at, sizeof half);
    return half_to_float(half);
  }
  float value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Code `i` of quad `quad` of a column.
int load_code(const GroupLayout& layout, const std::byte* group, int column, int quad, int i) {
  const auto byte = [&](int row) { return std::to_integer<int>(group[(row * kPanelColumns + column) * 4 + i]); };
  if (layout.code_bits == 8) return byte(quad) - layout.zero;
  const int low = byte(quad / 2) >> (quad % 2 * 4) & 15;
  if (layout.upper_bits == 0) return low - layout.zero;
  const int bit = quad * layout.upper_bits;
  const int upper = byte(4 + bit / 8) >> bit % 8 << 4 & layout.upper_mask;
  return (low | upper) - layout.zero;
}

// Of a column: the scale of a half of k, and the minimum.
float scale_at(const GroupLayout& layout, const std::byte* group, int half, int column) {
  const int entry = (layout.scales == 2 ? half * kPanelColumns : 0) + column;
  return load_float(group + layout.scale_offset + entry * layout.scale_bytes, layout.scale_bytes);
}
float minimum_at(const GroupLayout& layout, const std::byte* group, int column) {
  if (!layout.minimum) return 0;
  return load_float(group + layout.minimum_offset + column * layout.scale_bytes, layout.scale_bytes);
}

void load_scales(const GroupLayout& layout, const std::byte* group, Group& out) {
  for (int column = 0; column < kPanelColumns; ++column) {
    for (int half = 0; half < 2; ++half) out.scale[half][column] = scale_at(layout, group, half, column);
    out.minimum[column] = minimum_at(layout, group, column);
  }
}

void load_group(const GroupLayout& layout, const std::byte* group, Group& out) {
  for (int quad = 0; quad < kGroup / 4; ++quad) {
    for (int column = 0; column < kPanelColumns; ++column) {
      for (int i = 0; i < 4; ++i) {
        out.codes[column][4 * quad + i] = static_cast<std::int16_t>(load_code(layout, group, column, quad, i));
      }
    }
  }
  load_scales(layout, group, out);
}

std::int32_t dot(const std::int16_t* a, const std::int16_t* b, int n) {
  std::int32_t sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// One group of one row: activations a [32] with their scale, onto acc [32 columns].
void finish_group(const GroupLayout& layout, const Group& w, const std::int16_t* a, float scale, float* acc) {
  std::int32_t sum = 0;
  for (int k = 0; k < kGroup; ++k) sum += a[k];
  for (int column = 0; column < kPanelColumns; ++column) {
    const std::int16_t* codes = w.codes[column];
    if (layout.scales == 2) {
      const float first = mul(w.scale[0][column], scale);
      const float second = mul(w.scale[1][column], scale);
      acc[column] = fma(static_cast<float>(dot(codes, a, kHalf)), first, acc[column]);
      acc[column] = fma(static_cast<float>(dot(codes + kHalf, a + kHalf, kHalf)), second, acc[column]);
      continue;
    }
    const float s = mul(w.scale[0][column], scale);
    acc[column] = fma(static_cast<float>(dot(codes, a, kGroup)), s, acc[column]);
    if (layout.minimum) {
      const float t = mul(w.minimum[column], scale);
      acc[column] = fma(static_cast<float>(sum), t, acc[column]);
    }
  }
}

// The codes of group `at`, counted over all rows, in the order of k.
void load_codes(const QuantRows& quant, std::size_t at, std::int16_t* out) {
  constexpr std::size_t kOrder[4] = {0, 2, 1, 3};  // of a quad of 16-bit codes
  for (std::size_t k = 0; k < kGroup; ++k) {
    out[k] = quant.codes16 != nullptr ? quant.codes16[at * kGroup + k / 4 * 4 + kOrder[k % 4]]
                                      : quant.codes[at * kGroup + k];
  }
}

void store(const GemmArgs& args, int row, int panel, const float* acc) {
  const int begin = panel * kPanelColumns;
  for (int column = 0; column < kPanelColumns && begin + column < args.w->n; ++column) {
    float& c = args.c[static_cast<std::size_t>(row) * args.c_stride + static_cast<std::size_t>(begin + column)];
    float result = acc[column];
    if (args.bias != nullptr) result = result + args.bias[begin + column];
    c = args.add ? c + result : result;
  }
}

void quantised_rows(const GemmArgs& args, int panel, int row, int rows) {
  const GroupLayout layout = group_layout(args.w->format);
  const QuantRows& quant = args.quant;
  const int groups = args.w->k / kGroup;
  float acc[kRowBlock][kPanelColumns] = {};
  Group w;
  for (int g = 0; g < groups; ++g) {
    load_group(layout, args.w->panel(panel) + static_cast<std::ptrdiff_t>(g) * layout.bytes, w);
    for (int r = 0; r < rows; ++r) {
      const std::size_t at =
          static_cast<std::size_t>(row + r) * static_cast<std::size_t>(groups) + static_cast<std::size_t>(g);
      std::int16_t a[kGroup];
      load_codes(quant, at, a);
      finish_group(layout, w, a, quant.scale[at], acc[r]);
    }
  }
  for (int r = 0; r < rows; ++r) store(args, row + r, panel, acc[r]);
}

float load_weight(const PackedMatrix& w, const std::byte* panel, int k, int column) {
  const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(k) * kPanelColumns + column;
  if (w.format == PackedFormat::f32) return load_float(panel + 4 * at, 4);
  if (w.format == PackedFormat::f16) return load_float(panel + 2 * at, 2);
  std::uint16_t bits;
  std::memcpy(&bits, panel + 2 * at, sizeof bits);
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

void float_rows(const GemmArgs& args, int panel, int row, int rows) {
  const PackedMatrix& w = *args.w;
  float acc[kRowBlock][kPanelColumns] = {};
  for (int k = 0; k < w.k; ++k) {
    float weights[kPanelColumns];
    for (int column = 0; column < kPanelColumns; ++column) weights[column] = load_weight(w, w.panel(panel), k, column);
    for (int r = 0; r < rows; ++r) {
      const float x =
          args.x[static_cast<std::size_t>(row + r) * static_cast<std::size_t>(w.k) + static_cast<std::size_t>(k)];
      for (int column = 0; column < kPanelColumns; ++column) {
        acc[r][column] = fma(x, weights[column], acc[r][column]);
      }
    }
  }
  for (int r = 0; r < rows; ++r) store(args, row + r, panel, acc[r]);
}

}  // namespace

void gemm(const GemmArgs& args) {
  const auto rows_of_panel = is_float(args.w->format) ? float_rows : quantised_rows;
  for (int panel = args.panel_begin; panel < args.panel_end; ++panel) {
    for (int row = 0; row < args.m; row += kRowBlock) {
      rows_of_panel(args, panel, row, args.m - row < kRowBlock ? args.m - row : kRowBlock);
    }
  }
}

void embed_row(const PackedMatrix& w, int row, float* out) {
  const std::byte* panel = w.panel(row / kPanelColumns);
  const int column = row % kPanelColumns;
  if (is_float(w.format)) {
    for (int k = 0; k < w.k; ++k) out[k] = load_weight(w, panel, k, column);
    return;
  }
  const GroupLayout layout = group_layout(w.format);
  for (int begin = 0; begin < w.k; begin += kGroup) {
    const std::byte* group = panel + static_cast<std::ptrdiff_t>(begin / kGroup) * layout.bytes;
    const float scale[2] = {scale_at(layout, group, 0, column), scale_at(layout, group, 1, column)};
    const float minimum = minimum_at(layout, group, column);
    for (int k = 0; k < kGroup; ++k) {
      const auto code = static_cast<float>(load_code(layout, group, column, k / 4, k % 4));
      out[begin + k] = fma(code, scale[k / kHalf], minimum);
    }
  }
}

}  // namespace dalsegno::scalar
