#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/levels.hpp"
#include "tensor/half.hpp"
#include "tensor/packing.hpp"

// Packing is exact: a row read back from the panels has the values that its GGUF blocks stand for. Each
// type is dequantised here element by element, as the ggml project describes it, from random blocks.
namespace dalsegno {
namespace {

struct Block {
  const std::uint8_t* bytes;

  [[nodiscard]] float half(int at) const {
    std::uint16_t word;
    std::memcpy(&word, bytes + at, sizeof word);
    const int exponent = word >> 10 & 31;
    const double mantissa = word & 1023;
    const double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    return static_cast<float>((word & 0x8000) != 0 ? -size : size);
  }
  [[nodiscard]] int nibble(int at, int i) const { return i < 16 ? bytes[at + i] & 15 : bytes[at + i - 16] >> 4; }
  [[nodiscard]] int bit(int at, int i) const { return bytes[at + i / 8] >> (i % 8) & 1; }
};

// d * code - dmin * m of the K types; element i of 256, its 4 or 5 bits in `code`.
float with_k_scales(const Block& b, int i, int code) {
  const std::uint8_t* s = b.bytes + 4;
  const int j = i / 32;
  const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
  const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
  const float step = b.half(0) * static_cast<float>(scale);
  const float lowest = b.half(2) * static_cast<float>(minimum);
  const float product = step * static_cast<float>(code);  // exact
  return product - lowest;
}

float dequantised(TensorType type, const Block& b, int i) {
  static constexpr std::array<int, 16> codebook = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                   1,    13,   25,  38,  53,  69,  89,  113};
  switch (type) {
    case TensorType::q8_0:
      return b.half(0) * static_cast<float>(static_cast<std::int8_t>(b.bytes[2 + i]));
    case TensorType::q4_0:
      return b.half(0) * static_cast<float>(b.nibble(2, i) - 8);
    case TensorType::q4_1:
      return b.half(0) * static_cast<float>(b.nibble(4, i)) + b.half(2);
    case TensorType::q5_0:
      return b.half(0) * static_cast<float>((b.nibble(6, i) | b.bit(2, i) << 4) - 16);
    case TensorType::q5_1:
      return b.half(0) * static_cast<float>(b.nibble(8, i) | b.bit(4, i) << 4) + b.half(2);
    case TensorType::iq4_nl:
      return b.half(0) * static_cast<float>(codebook[static_cast<std::size_t>(b.nibble(2, i))]);
    case TensorType::q4_k: {
      const int byte = b.bytes[16 + i / 64 * 32 + i % 32];
      return with_k_scales(b, i, i % 64 < 32 ? byte & 15 : byte >> 4);
    }
    case TensorType::q5_k: {
      const int byte = b.bytes[48 + i / 64 * 32 + i % 32];
      const int fifth = b.bytes[16 + i % 32] >> (i / 32) & 1;
      return with_k_scales(b, i, (i % 64 < 32 ? byte & 15 : byte >> 4) | fifth << 4);
    }
    case TensorType::q6_k: {
      const int half = i / 128;
      const int part = i % 128 / 32;
      const int low = b.bytes[half * 64 + part % 2 * 32 + i % 32];
      const int high = b.bytes[128 + half * 32 + i % 32] >> (2 * part) & 3;
      const int code = ((part < 2 ? low & 15 : low >> 4) | high << 4) - 32;
      const float scale = b.half(208) * static_cast<float>(static_cast<std::int8_t>(b.bytes[192 + i / 16]));
      return scale * static_cast<float>(code);
    }
    case TensorType::f32: {
      float value;
      std::memcpy(&value, b.bytes, 4);
      return value;
    }
    case TensorType::f16:
      return b.half(0);
    case TensorType::bf16:
      return std::bit_cast<float>(std::uint32_t{b.bytes[0]} << 16 | std::uint32_t{b.bytes[1]} << 24);
  }
  return 0;
}

constexpr TensorType kTypes[] = {TensorType::f32,  TensorType::f16,  TensorType::bf16, TensorType::q4_0,
                                 TensorType::q4_1, TensorType::q5_0, TensorType::q5_1, TensorType::q8_0,
                                 TensorType::q4_k, TensorType::q5_k, TensorType::q6_k, TensorType::iq4_nl};

// Where a block of the type holds f16 or float values that must be finite; the rest may be any bytes.
std::vector<int> float_ends(TensorType type) {
  switch (type) {
    case TensorType::f32:
      return {3};
    case TensorType::q4_1:
    case TensorType::q5_1:
    case TensorType::q4_k:
    case TensorType::q5_k:
      return {1, 3};
    case TensorType::q6_k:
      return {209};
    default:
      return {1};
  }
}

class Packing : public ::testing::TestWithParam<TensorType> {
 protected:
  static constexpr int kRows = 70;
  static constexpr int kLength = 512;

  Packing() {
    const TensorTypeTraits& type = traits(GetParam());
    const int blocks = kRows * kLength / type.block_elements;
    std::mt19937 random(7);
    source_.resize(static_cast<std::size_t>(blocks * type.block_bytes));
    for (std::uint8_t& byte : source_) byte = static_cast<std::uint8_t>(random());
    for (int block = 0; block < blocks; ++block) {
      for (const int end : float_ends(GetParam())) {
        // The exponent's upper bits: often zero, so that f16 denormals occur, never all ones.
        std::uint8_t& byte = source_[static_cast<std::size_t>(block * type.block_bytes + end)];
        byte = static_cast<std::uint8_t>(random() % 4 == 0 ? byte & 0x83 : byte & 0xbb);
      }
    }
    format_ = packed_format(GetParam());
    packed_.resize(packed_bytes(format_, kRows, kLength) / sizeof(Line));
  }

  [[nodiscard]] const std::byte* source() const { return reinterpret_cast<const std::byte*>(source_.data()); }
  [[nodiscard]] std::byte* packed() { return reinterpret_cast<std::byte*>(packed_.data()); }
  bool pack(int begin, int end) { return pack_panels(GetParam(), source(), kRows, kLength, begin, end, packed()); }

  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<std::uint8_t> source_;
  std::vector<Line> packed_;
  PackedFormat format_{};
};

TEST_P(Packing, RowsReadBackHaveTheValuesOfTheFile) {
  ASSERT_TRUE(pack(0, 3));
  const TensorTypeTraits& type = traits(GetParam());
  const PackedMatrix matrix = {format_, kRows, kLength, 3, packed_panel_bytes(format_, kLength), packed()};
  std::vector<float> row(kLength);
  for (int r = 0; r < kRows; ++r) {
    {
      const FloatState flushing;
      scalar::embed_row(matrix, r, row.data());
    }
    for (int i = 0; i < kLength; ++i) {
      const int block = (r * kLength + i) / type.block_elements;
      const Block b = {source_.data() + block * type.block_bytes};
      const float wanted = dequantised(GetParam(), b, i % type.block_elements);
      // Zeros may differ in sign: fma(0, -scale, +0) is +0.
      if (wanted == 0) {
        ASSERT_EQ(row[static_cast<std::size_t>(i)], 0) << type.name << ", row " << r << ", element " << i;
      } else {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(row[static_cast<std::size_t>(i)]), std::bit_cast<std::uint32_t>(wanted))
            << type.name << ", row " << r << ", element " << i;
      }
    }
  }
}

TEST_P(Packing, PanelsMayBePackedOneByOneInAnyOrder) {
  ASSERT_TRUE(pack(0, 3));
  const std::vector<Line> whole = packed_;
  std::memset(packed(), 0xee, packed_bytes(format_, kRows, kLength));
  for (const int panel : {2, 0, 1}) EXPECT_TRUE(pack(panel, panel + 1));
  EXPECT_EQ(std::memcmp(packed(), whole.data(), packed_bytes(format_, kRows, kLength)), 0);
}

TEST_P(Packing, ValuesThatAreNotFiniteAreReported) {
  const TensorTypeTraits& type = traits(GetParam());
  const int block = 45 * kLength / type.block_elements;  // the first of row 45, in panel 1
  for (const int end : float_ends(GetParam())) {
    const std::vector<std::uint8_t> good = source_;
    std::uint8_t* at = source_.data() + block * type.block_bytes + end;
    const bool half = GetParam() != TensorType::f32 && GetParam() != TensorType::bf16;
    for (const int mantissa : {0, 1}) {  // infinity, then a NaN
      at[0] = half ? 0x7c : 0x7f;
      at[-1] = static_cast<std::uint8_t>(mantissa | (half ? 0 : 0x80));
      EXPECT_FALSE(pack(1, 2)) << type.name;
      EXPECT_TRUE(pack(0, 1)) << type.name;
      EXPECT_TRUE(pack(2, 3)) << type.name;
    }
    source_ = good;
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Packing, ::testing::ValuesIn(kTypes),
                         [](const auto& entry) { return std::string(traits(entry.param).name); });

}  // namespace
}  // namespace dalsegno
