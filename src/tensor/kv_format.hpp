#pragma once

#include <cstddef>
#include <cstdint>

#include "dalsegno/types.hpp"

namespace dalsegno {

// Tokens per block. 16 keys are one SIMD group; an attention tile of 64 is four blocks.
inline constexpr int kBlockTokens = 16;

enum class KvPart : std::uint8_t { keys, values };

[[nodiscard]] constexpr bool is_quantised(KvFormat format) {
  return format == KvFormat::q8 || format == KvFormat::q4;
}

// Bytes of one value in attention's arithmetic: queries have them, and K/V unless they are kept as codes, which become
// bf16 first.
[[nodiscard]] constexpr std::size_t element_bytes(KvFormat format) {
  return format == KvFormat::f32 ? 4 : 2;
}

// Keys that are kept as codes, and the queries that meet them, are transformed in runs of this size: the largest power
// of two that divides the head.
[[nodiscard]] constexpr int hadamard_size(int head_dim) {
  return head_dim & -head_dim;
}

// K or V of one block and head in codes of 8 or 4 bits. `group` neighbouring values of one token share a scale and,
// with 4 bits, a minimum; the last group of a head may be smaller.
// Bytes: the codes, then scales [group][16 tokens] bf16, then minima likewise. Codes are in the order of bf16's values
// (kv_view.hpp); a byte of 4-bit codes holds two of one token, so that tokens can be written at the same time:
//   8 bits: K [head_dim/2][16 tokens][2], V [8 token pairs][head_dim][2], as signed bytes
//   4 bits: K [head_dim/4][16 tokens][2], low: dims 4i + 0 and 1, high: 4i + 2 and 3
//           V [8 token pairs][head_dim/16][8][2], low: dims 16i + 0 to 7, high: 16i + 8 to 15
struct KvCodes {
  int bits = 8;
  int head_dim = 0;  // a multiple of 16
  int group = 0;     // a multiple of 16
  std::size_t scale_offset = 0;
  std::size_t minimum_offset = 0;
  std::size_t bytes = 0;
};

// group 0, or larger than the head: the head. Requires: is_quantised(format).
[[nodiscard]] constexpr KvCodes kv_codes(KvFormat format, int head_dim, int group) {
  KvCodes codes{.bits = format == KvFormat::q8 ? 8 : 4,
                .head_dim = head_dim,
                .group = group == 0 || group > head_dim ? head_dim : group};
  const auto values = static_cast<std::size_t>(kBlockTokens) * static_cast<std::size_t>(head_dim);
  const auto groups = static_cast<std::size_t>((head_dim + codes.group - 1) / codes.group);
  const std::size_t parameters = groups * kBlockTokens * sizeof(std::uint16_t);
  codes.scale_offset = values * static_cast<std::size_t>(codes.bits) / 8;
  codes.minimum_offset = codes.scale_offset + parameters;
  codes.bytes = codes.bits == 8 ? codes.minimum_offset : codes.minimum_offset + parameters;
  return codes;
}

// Bytes of K or of V of one block and head.
[[nodiscard]] constexpr std::size_t kv_part_bytes(KvFormat format, int head_dim, int group) {
  if (is_quantised(format)) return kv_codes(format, head_dim, group).bytes;
  return static_cast<std::size_t>(kBlockTokens) * static_cast<std::size_t>(head_dim) * element_bytes(format);
}

}  // namespace dalsegno
