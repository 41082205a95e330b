#pragma once

#include <cstddef>

#include "tensor/packed.hpp"
#include "tensor/tensor_type.hpp"

namespace dalsegno {

// One group of a quantised panel: 32 columns, 32 consecutive k. A quad is 4 consecutive k of one
// column, so that a 32-bit lane holds what one dot-product instruction takes.
//   codes    8 bits: [8 quads][32 columns][4 k]
//            4 bits: [4 quad pairs][32 columns][4 k]; low nibble: quad 2j, high nibble: quad 2j + 1
//            stored unsigned, as code + zero
//   scales   [scales][32 columns]; with two, one per half of 16 k
//   minima   [32 columns], as wide as the scales, where the format has them
// A panel is its groups, k ascending, with nothing between them: one stream of memory.
struct GroupLayout {
  int code_bits;
  int zero;
  int scale_bytes;  // of one scale or minimum: 2 (f16) or 4 (f32)
  int scales;       // per column
  bool minimum;
  // In bytes, from the group's start. Plain numbers, so that kernel files call no shared inline function.
  int scale_offset;
  int minimum_offset;
  int bytes;
};

[[nodiscard]] constexpr GroupLayout make_group_layout(int code_bits, int zero, int scale_bytes, int scales,
                                                      bool minimum) {
  const int scale_offset = kPanelColumns * kGroup * code_bits / 8;
  const int minimum_offset = scale_offset + kPanelColumns * scale_bytes * scales;
  const int bytes = minimum_offset + (minimum ? kPanelColumns * scale_bytes : 0);
  return {code_bits, zero, scale_bytes, scales, minimum, scale_offset, minimum_offset, bytes};
}

// Requires: !is_float(format).
[[nodiscard]] constexpr GroupLayout group_layout(PackedFormat format) {
  switch (format) {
    case PackedFormat::w8:
      return make_group_layout(8, 128, 2, 1, false);
    case PackedFormat::w4:
      return make_group_layout(4, 8, 2, 1, false);
    case PackedFormat::w4_min:
      return make_group_layout(4, 0, 2, 1, true);
    case PackedFormat::w4_min32:
      return make_group_layout(4, 0, 4, 1, true);
    case PackedFormat::w8_min32:
      return make_group_layout(8, 0, 4, 1, true);  // codes 0..31
    default:
      return make_group_layout(8, 32, 4, 2, false);  // w8_half, codes -32..31
  }
}

[[nodiscard]] PackedFormat packed_format(TensorType type);
// Bytes of one panel (32 columns) / of a whole matrix; multiples of 64.
// Requires: k % 32 == 0 for quantised formats.
[[nodiscard]] std::size_t packed_panel_bytes(PackedFormat format, int k);
[[nodiscard]] std::size_t packed_bytes(PackedFormat format, int n, int k);

// Repacks panels [panel_begin, panel_end) of a GGUF matrix [n, k] (rows of k elements, contiguous blocks) into `out`,
// the start of panel 0. Exact. Thread-safe for disjoint panels. Returns false if a scale, minimum or float
// weight is NaN or infinite (packing goes on; the caller refuses the tensor).
// Requires: k is a multiple of the type's block.
bool pack_panels(TensorType type, const std::byte* source, int n, int k, int panel_begin, int panel_end,
                 std::byte* out);

}  // namespace dalsegno
