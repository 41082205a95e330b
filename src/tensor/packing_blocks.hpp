#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tensor/half.hpp"
#include "tensor/packed.hpp"

// One struct per quantised GGUF type: unpack() reads group `g` (32 elements) of one block.
// Source of the block layouts and of the codebook: the ggml project's quantisation formats.
// All of it works on quads (4 codes, k ascending from the lowest byte) in 32-bit words.
namespace dalsegno::packing {

static_assert(std::endian::native == std::endian::little);

struct GroupCodes {
  std::uint32_t quads[8];  // as stored: code + zero of the format
  std::uint32_t scale[2];  // bits of an f16 or f32
  std::uint32_t minimum;
};

inline constexpr std::uint32_t kLowNibbles = 0x0f0f0f0f;

[[nodiscard]] inline std::uint16_t load16(const std::byte* at) {
  std::uint16_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}
[[nodiscard]] inline std::uint32_t load32(const std::byte* at) {
  std::uint32_t word;
  std::memcpy(&word, at, sizeof word);
  return word;
}
[[nodiscard]] constexpr std::uint32_t in_every_byte(std::uint32_t byte) {
  return byte * 0x01010101U;
}

// Bit i of the low four to bit 0 of byte i.
[[nodiscard]] constexpr std::uint32_t spread_bits(std::uint32_t bits) {
  return ((bits & 15U) * 0x00204081U) & 0x01010101U;
}

// 16 bytes whose low nibbles are elements 0..15 and whose high nibbles are 16..31.
inline void unpack_nibbles(const std::byte* codes, std::uint32_t (&quads)[8]) {
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t word = load32(codes + 4 * i);
    quads[i] = word & kLowNibbles;
    quads[4 + i] = (word >> 4) & kLowNibbles;
  }
}

// The same with a fifth bit per element.
inline void unpack_five_bits(const std::byte* high, const std::byte* codes, std::uint32_t (&quads)[8]) {
  const std::uint32_t fifth = load32(high);
  unpack_nibbles(codes, quads);
  for (int i = 0; i < 8; ++i) quads[i] |= spread_bits(fifth >> (4 * i)) << 4;
}

[[nodiscard]] inline std::uint32_t float_bits(float value) {
  return std::bit_cast<std::uint32_t>(value);
}

// {f16 scale, 32 int8}
struct Q8_0 {
  static constexpr PackedFormat kFormat = PackedFormat::w8;
  static constexpr int kElements = 32;
  static constexpr int kBytes = 34;
  static bool unpack(const std::byte* block, int, GroupCodes& out) {
    out.scale[0] = load16(block);
    for (int i = 0; i < 8; ++i) out.quads[i] = load32(block + 2 + 4 * i) ^ in_every_byte(0x80);
    return is_finite_half(load16(block));
  }
};

// {f16 scale, 16 bytes of nibbles}; code = nibble - 8
struct Q4_0 {
  static constexpr PackedFormat kFormat = PackedFormat::w4;
  static constexpr int kElements = 32;
  static constexpr int kBytes = 18;
  static bool unpack(const std::byte* block, int, GroupCodes& out) {
    out.scale[0] = load16(block);
    unpack_nibbles(block + 2, out.quads);
    return is_finite_half(load16(block));
  }
};

// {f16 scale, f16 minimum, 16 bytes of nibbles}
struct Q4_1 {
  static constexpr PackedFormat kFormat = PackedFormat::w4_min;
  static constexpr int kElements = 32;
  static constexpr int kBytes = 20;
  static bool unpack(const std::byte* block, int, GroupCodes& out) {
    out.scale[0] = load16(block);
    out.minimum = load16(block + 2);
    unpack_nibbles(block + 4, out.quads);
    return is_finite_half(load16(block)) && is_finite_half(load16(block + 2));
  }
};

// {f16 scale, 32 high bits, 16 bytes of nibbles}; code = five bits - 16
struct Q5_0 {
  static constexpr PackedFormat kFormat = PackedFormat::w5;
  static constexpr int kElements = 32;
  static constexpr int kBytes = 22;
  static bool unpack(const std::byte* block, int, GroupCodes& out) {
    out.scale[0] = load16(block);
    unpack_five_bits(block + 2, block + 6, out.quads);
    return is_finite_half(load16(block));
  }
};

// {f16 scale, f16 minimum, 32 high bits, 16 bytes of nibbles}
struct Q5_1 {
  static constexpr PackedFormat kFormat = PackedFormat::w5_min32;
  static constexpr int kElements = 32;
  static constexpr int kBytes = 24;
  static bool unpack(const std::byte* block, int, GroupCodes& out) {
    out.scale[0] = float_bits(half_to_float(load16(block)));
    out.minimum = float_bits(half_to_float(load16(block + 2)));
    unpack_five_bits(block + 4, block + 8, out.quads);
    return is_finite_half(load16(block)) && is_finite_half(load16(block + 2));
  }
};

// {f16 scale, 16 bytes of nibbles that index a codebook}
struct IQ4_NL {
  static constexpr PackedFormat kFormat = PackedFormat::w8;
  static constexpr int kElements = 32;
  static constexpr int kBytes = 18;
  // The codebook's values, as stored (+ 128).
  static constexpr std::uint8_t kValues[16] = {128 - 127, 128 - 104, 128 - 83, 128 - 65, 128 - 49, 128 - 35,
                                               128 - 22,  128 - 10,  128 + 1,  128 + 13, 128 + 25, 128 + 38,
                                               128 + 53,  128 + 69,  128 + 89, 128 + 113};
  static bool unpack(const std::byte* block, int, GroupCodes& out) {
    out.scale[0] = load16(block);
    unpack_nibbles(block + 2, out.quads);
    for (std::uint32_t& quad : out.quads) {
      quad = std::uint32_t{kValues[quad & 15]} | std::uint32_t{kValues[quad >> 8 & 15]} << 8 |
             std::uint32_t{kValues[quad >> 16 & 15]} << 16 | std::uint32_t{kValues[quad >> 24]} << 24;
    }
    return is_finite_half(load16(block));
  }
};

// The head of Q4_K and Q5_K: {f16 d, f16 dmin, 12 bytes: eight 6-bit scales and eight 6-bit minima}.
// Groups 0..3: the low six bits of bytes g and 4 + g. Groups 4..7: four bits from byte 4 + g (scale low,
// minimum high), the upper two from the top of bytes g - 4 and g.
// Both products are exact in f32: 11 significant bits by 6.
inline bool unpack_k_scales(const std::byte* block, int g, GroupCodes& out) {
  const auto byte = [&](int i) { return std::to_integer<std::uint32_t>(block[4 + i]); };
  std::uint32_t scale = byte(g) & 63;
  std::uint32_t minimum = byte(4 + g) & 63;
  if (g >= 4) {
    scale = (byte(4 + g) & 15) | byte(g - 4) >> 6 << 4;
    minimum = byte(4 + g) >> 4 | byte(g) >> 6 << 4;
  }
  out.scale[0] = float_bits(half_to_float(load16(block)) * static_cast<float>(scale));
  out.minimum = float_bits(-(half_to_float(load16(block + 2)) * static_cast<float>(minimum)));
  return is_finite_half(load16(block)) && is_finite_half(load16(block + 2));
}

// {head, 128 bytes}: each 32 bytes hold group 2i in their low nibbles, group 2i + 1 in the high ones.
struct Q4_K {
  static constexpr PackedFormat kFormat = PackedFormat::w4_min32;
  static constexpr int kElements = 256;
  static constexpr int kBytes = 144;
  static bool unpack(const std::byte* block, int g, GroupCodes& out) {
    const std::byte* codes = block + 16 + 32 * (g / 2);
    for (int i = 0; i < 8; ++i) out.quads[i] = (load32(codes + 4 * i) >> (4 * (g % 2))) & kLowNibbles;
    return unpack_k_scales(block, g, out);
  }
};

// {head, 32 bytes whose bit g is the fifth bit of group g, 128 bytes as in Q4_K}
struct Q5_K {
  static constexpr PackedFormat kFormat = PackedFormat::w5_min32;
  static constexpr int kElements = 256;
  static constexpr int kBytes = 176;
  static bool unpack(const std::byte* block, int g, GroupCodes& out) {
    const std::byte* fifth = block + 16;
    const std::byte* codes = block + 48 + 32 * (g / 2);
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t low = (load32(codes + 4 * i) >> (4 * (g % 2))) & kLowNibbles;
      out.quads[i] = low | ((load32(fifth + 4 * i) >> g) & in_every_byte(1)) << 4;
    }
    return unpack_k_scales(block, g, out);
  }
};

// {128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales, f16 d}; code = six bits - 32.
// Each half of 128 elements has 64 and 32 of those bytes: groups 0 and 1 are the low nibbles of the first
// and second 32 bytes, groups 2 and 3 their high nibbles; group i takes bit pair i of each high byte.
struct Q6_K {
  static constexpr PackedFormat kFormat = PackedFormat::w6_half;
  static constexpr int kElements = 256;
  static constexpr int kBytes = 210;
  static bool unpack(const std::byte* block, int g, GroupCodes& out) {
    const int half = g / 4;
    const int part = g % 4;
    const std::byte* low = block + 64 * half + 32 * (part % 2);
    const std::byte* high = block + 128 + 32 * half;
    for (int i = 0; i < 8; ++i) {
      const std::uint32_t pairs = (load32(high + 4 * i) >> (2 * part)) & in_every_byte(3);
      out.quads[i] = ((load32(low + 4 * i) >> (4 * (part / 2))) & kLowNibbles) | pairs << 4;
    }
    const float d = half_to_float(load16(block + 208));
    for (int i = 0; i < 2; ++i) {  // exact: 11 significant bits by 8
      const auto scale = std::to_integer<std::int8_t>(block[192 + 2 * g + i]);
      out.scale[i] = float_bits(d * static_cast<float>(scale));
    }
    return is_finite_half(load16(block + 208));
  }
};

}  // namespace dalsegno::packing
