#pragma once

#include <cstddef>

#include "tensor/packed.hpp"
#include "tensor/tensor_type.hpp"

namespace dalsegno {

// One group of a quantised panel: 32 columns, 32 consecutive k. A quad is 4 consecutive k of one
// column, so that a 32-bit lane holds what one dot-product instruction takes.
//   codes    8 bits: [8 quads][32 columns][4 k]
//            4 bits: [4 quad pairs][32 columns][4 k]; low nibble: quad 2j, high nibble: quad 2j + 1
//            5 bits: the same for their low four, then [32 columns][4 k]; bit q: the fifth of quad q
//            6 bits: the same for their low four, then [2][32 columns][4 k]; bits 2q and 2q + 1: the upper two of
//                    quad q, 4 + q in the second 128 bytes
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
  // Codes of 5 or 6 bits: the bits above the low four, where those of quad 0 lie, and their place in a code. Those of
  // quad q lie (q * upper_bits) / 8 * 4 * kPanelColumns bytes further on, from bit (q * upper_bits) % 8 of each byte.
  int upper_bits;
  int upper_offset;
  int upper_mask;
};

[[nodiscard]] constexpr GroupLayout make_group_layout(int code_bits, int zero, int scale_bytes, int scales,
                                                      bool minimum) {
  const int scale_offset = kPanelColumns * kGroup * code_bits / 8;
  const int minimum_offset = scale_offset + kPanelColumns * scale_bytes * scales;
  const int bytes = minimum_offset + (minimum ? kPanelColumns * scale_bytes : 0);
  const int upper_bits = code_bits < 8 ? code_bits - 4 : 0;
  return {code_bits,
          zero,
          scale_bytes,
          scales,
          minimum,
          scale_offset,
          minimum_offset,
          bytes,
          upper_bits,
          kPanelColumns * kGroup / 2,
          ((1 << upper_bits) - 1) << 4};
}

// Requires: !is_float(format).
[[nodiscard]] constexpr GroupLayout group_layout(PackedFormat format) {
  switch (format) {
    case PackedFormat::w8:
      return make_group_layout(8, 128, 2, 1, false);
    case PackedFormat::w4:
      return make_group_layout(4, 8, 2, 1, false);
    case PackedFormat::w5:
      return make_group_layout(5, 16, 2, 1, false);
    case PackedFormat::w4_min:
      return make_group_layout(4, 0, 2, 1, true);
    case PackedFormat::w4_min32:
      return make_group_layout(4, 0, 4, 1, true);
    case PackedFormat::w5_min32:
      return make_group_layout(5, 0, 4, 1, true);
    default:
      return make_group_layout(6, 32, 4, 2, false);  // w6_half
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
