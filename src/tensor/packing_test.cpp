#include "tensor/packing.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "tensor/half.hpp"

namespace dalsegno {
namespace {

TEST(PackedSize, IsTheGroupsOfAllPanels) {
  EXPECT_EQ(packed_panel_bytes(PackedFormat::w8, 64), 2U * (32 * 32 + 32 * 2));
  EXPECT_EQ(packed_panel_bytes(PackedFormat::w4, 64), 2U * (32 * 16 + 32 * 2));
  EXPECT_EQ(packed_panel_bytes(PackedFormat::w4_min, 64), 2U * (32 * 16 + 32 * 4));
  EXPECT_EQ(packed_panel_bytes(PackedFormat::w4_min32, 64), 2U * (32 * 16 + 32 * 8));
  EXPECT_EQ(packed_panel_bytes(PackedFormat::w5, 64), 2U * (32 * 20 + 32 * 2));
  EXPECT_EQ(packed_panel_bytes(PackedFormat::w5_min32, 64), 2U * (32 * 20 + 32 * 8));
  EXPECT_EQ(packed_panel_bytes(PackedFormat::w6_half, 64), 2U * (32 * 24 + 32 * 8));
  EXPECT_EQ(packed_panel_bytes(PackedFormat::f32, 5), 5U * 32 * 4);
  EXPECT_EQ(packed_panel_bytes(PackedFormat::bf16, 5), 5U * 32 * 2);
  EXPECT_EQ(packed_bytes(PackedFormat::w4, 64, 64), 2 * packed_panel_bytes(PackedFormat::w4, 64));
  EXPECT_EQ(packed_bytes(PackedFormat::w4, 65, 64), 3 * packed_panel_bytes(PackedFormat::w4, 64));
}

TEST(PackedSize, OfAVeryLargeMatrixDoesNotOverflow) {
  EXPECT_EQ(packed_bytes(PackedFormat::f32, 1 << 20, 1 << 16), std::size_t{1} << 38);
}

TEST(Half, EveryValueConvertsExactly) {
  for (std::uint32_t bits = 0; bits < 0x8000; ++bits) {
    if (!is_finite_half(static_cast<std::uint16_t>(bits))) continue;
    const auto exponent = static_cast<int>(bits >> 10);
    const int mantissa = static_cast<int>(bits & 1023);
    const double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    EXPECT_EQ(half_to_float(static_cast<std::uint16_t>(bits)), static_cast<float>(value));
    EXPECT_EQ(half_to_float(static_cast<std::uint16_t>(bits | 0x8000)), static_cast<float>(-value));
  }
  EXPECT_TRUE(std::signbit(half_to_float(0x8000)));
  EXPECT_EQ(half_to_float(0x7c00), HUGE_VALF);
  EXPECT_EQ(half_to_float(0xfc00), -HUGE_VALF);
  EXPECT_TRUE(std::isnan(half_to_float(0x7c01)));
  EXPECT_FALSE(is_finite_half(0xfc00));
}

// Column 33 of Q8_0 is lane 1 of panel 1; element 37 is the second of quad 1 of group 1.
TEST(Packing, PutsACodeAndItsScaleWhereTheLayoutSays) {
  constexpr int n = 40;
  constexpr int k = 64;
  std::vector<std::uint8_t> source(n * 2 * 34);
  std::uint8_t* block = source.data() + (33 * 2 + 1) * 34;
  block[0] = 0x34;
  block[1] = 0x12;
  block[2 + 5] = 0xfd;  // -3
  std::vector<std::uint8_t> out(packed_bytes(PackedFormat::w8, n, k), 0xee);
  ASSERT_TRUE(pack_panels(TensorType::q8_0, reinterpret_cast<const std::byte*>(source.data()), n, k, 0, 2,
                          reinterpret_cast<std::byte*>(out.data())));
  const std::uint8_t* group = out.data() + packed_panel_bytes(PackedFormat::w8, k) + 1088;
  EXPECT_EQ(group[1 * 128 + 1 * 4 + 1], 125);
  EXPECT_EQ(group[1 * 128 + 1 * 4 + 2], 128);
  EXPECT_EQ(group[1024 + 2], 0x34);
  EXPECT_EQ(group[1024 + 3], 0x12);
}

// Element 37 of column 33 again: its low four bits in the high nibbles of quad pair 0, its fifth bit in bit 1.
TEST(Packing, PutsTheFifthBitWhereTheLayoutSays) {
  constexpr int n = 40;
  constexpr int k = 64;
  std::vector<std::uint8_t> source(n * 2 * 22);
  std::uint8_t* block = source.data() + (33 * 2 + 1) * 22;
  block[0] = 0x34;
  block[1] = 0x12;
  block[2] = 1U << 5;  // element 5 of the group: 16 + 13
  block[6 + 5] = 0x0d;
  std::vector<std::uint8_t> out(packed_bytes(PackedFormat::w5, n, k), 0xee);
  ASSERT_TRUE(pack_panels(TensorType::q5_0, reinterpret_cast<const std::byte*>(source.data()), n, k, 0, 2,
                          reinterpret_cast<std::byte*>(out.data())));
  const std::uint8_t* group = out.data() + packed_panel_bytes(PackedFormat::w5, k) + 704;
  EXPECT_EQ(group[0 * 128 + 1 * 4 + 1], 0xd0);
  EXPECT_EQ(group[512 + 1 * 4 + 1], 2);
  EXPECT_EQ(group[512 + 1 * 4 + 2], 0);
  EXPECT_EQ(group[640 + 2], 0x34);
  EXPECT_EQ(group[640 + 3], 0x12);
}

TEST(Packing, MissingColumnsHaveScaleZero) {
  std::vector<std::uint8_t> source(18, 0x11);
  std::vector<std::uint8_t> out(packed_bytes(PackedFormat::w4, 1, 32), 0xee);
  ASSERT_TRUE(pack_panels(TensorType::q4_0, reinterpret_cast<const std::byte*>(source.data()), 1, 32, 0, 1,
                          reinterpret_cast<std::byte*>(out.data())));
  EXPECT_EQ(out[512], 0x11);
  for (std::size_t i = 514; i < 576; ++i) EXPECT_EQ(out[i], 0) << i;
}

}  // namespace
}  // namespace dalsegno
