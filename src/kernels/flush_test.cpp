// What lies next to 2^-126. The contract decides "below 2^-126" after rounding to 24 bits: exact results from
// 2^-126 - 2^-151 on are 2^-126, smaller ones 0. x86 does so by itself, ARM does not, so every function that multiplies
// is led there, on every level: against the rule, written out in double or by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/self_check.hpp"
#include "tensor/packing.hpp"

namespace dalsegno {
namespace {

constexpr float kSmallest = 0x1p-126F;
// kLow * kHigh = 1 - 2^-26: with exponents that sum to -126 the product rounds to 2^-126.
constexpr float kLow = 1.0F - 0x1p-13F;
constexpr float kHigh = 1.0F + 0x1p-13F;
// 1 - 2^-24, which is an f32: times 2^-126 it stays below.
constexpr float kBelow = 1.0F - 0x1p-12F;
constexpr float kAbove = 1.0F + 0x1p-12F;

// x * y as the contract rounds it. Requires: 48 bits, so exact in double.
float product(float x, float y) {
  const double exact = static_cast<double>(x) * static_cast<double>(y);
  if (std::fabs(exact) >= 0x1p-126) return static_cast<float>(exact);
  const bool kept = std::fabs(exact) >= 0x1p-126 - 0x1p-151;
  return std::copysign(kept ? kSmallest : 0.0F, static_cast<float>(std::copysign(1.0, exact)));
}

class Flush : public ::testing::Test {
 protected:
  FloatState state_;
};

TEST_F(Flush, TheRuleItselfIsThatOfThisTest) {
  EXPECT_EQ(product(kLow * 0x1p-60F, kHigh * 0x1p-66F), kSmallest);
  EXPECT_EQ(product(kBelow * 0x1p-60F, kAbove * 0x1p-66F), 0.0F);
  EXPECT_EQ(product(-kLow * 0x1p-60F, kHigh * 0x1p-66F), -kSmallest);
}

TEST_F(Flush, ScaleRoundsBeforeItFlushes) {
  std::mt19937 random(1);
  for (const float factor : {kHigh * 0x1p-66F, kAbove * 0x1p-66F, -kHigh * 0x1p-66F, 0x1p-66F}) {
    std::vector<float> x(77);
    for (float& value : x) {  // within a few steps of the edge, on both sides of zero
      value = kLow + static_cast<float>(static_cast<int>(random() % 9) - 4) * 0x1p-24F;
      value *= random() % 2 == 0 ? 0x1p-60F : -0x1p-60F;
    }
    std::vector<float> expected = x;
    for (float& value : expected) value = product(value, factor);
    for (const Kernels* level : runnable_kernels()) {
      std::vector<float> out = x;
      level->scale(out.data(), 77, factor);
      EXPECT_THAT(out, testing::ContainerEq(expected)) << level->name;
    }
  }
}

TEST_F(Flush, RopeRoundsBeforeItFlushes) {
  constexpr int kHalf = 11;
  for (const Kernels* level : runnable_kernels()) {
    for (const bool interleaved : {false, true}) {
      std::vector<float> x(2 * kHalf);
      std::vector<float> cos(kHalf, 1.0F);
      std::vector<float> sin(kHalf, 0x1p-76F);
      for (int i = 0; i < kHalf; ++i) {  // 2^-126 - 2^-151, on the edge; 2^-126 - 2^-150, beyond it
        x[static_cast<std::size_t>(interleaved ? 2 * i : i)] = i % 2 == 0 ? -0x1p-75F : -0x1p-74F;
        x[static_cast<std::size_t>(interleaved ? 2 * i + 1 : i + kHalf)] = kSmallest;
      }
      level->rope(x.data(), 2 * kHalf, cos.data(), sin.data(), interleaved);
      for (int i = 0; i < kHalf; ++i) {
        EXPECT_EQ(x[static_cast<std::size_t>(interleaved ? 2 * i + 1 : i + kHalf)], i % 2 == 0 ? kSmallest : 0.0F)
            << level->name << ", pair " << i;
      }
      // b * sin is 2^-126 by rounding, and so is what is left of it.
      std::fill(x.begin(), x.end(), kLow * 0x1p-60F);
      std::fill(cos.begin(), cos.end(), 0.0F);
      std::fill(sin.begin(), sin.end(), kHigh * 0x1p-66F);
      level->rope(x.data(), 2 * kHalf, cos.data(), sin.data(), interleaved);
      for (const float value : x) EXPECT_EQ(std::fabs(value), kSmallest) << level->name;
    }
  }
}

TEST_F(Flush, NormsRoundBeforeTheyFlush) {
  // The mean of the squares is 1/16, so the row is x * 4 * w. (No square of an f32 lies next to 2^-126.)
  for (const Kernels* level : runnable_kernels()) {
    std::vector<float> x(16, 0.0F);
    std::vector<float> w(16, kHigh * 0x1p-68F);
    x[0] = 1.0F;
    x[5] = kLow * 0x1p-60F;
    x[6] = kBelow * 0x1p-60F;
    std::vector<float> out(16);
    level->rms_norm(x.data(), w.data(), 16, 0.0F, out.data());
    EXPECT_EQ(out[5], kSmallest) << level->name;
    EXPECT_EQ(out[6], 0.0F) << level->name;
  }
}

TEST_F(Flush, ActivationsRoundBeforeTheyFlush) {
  std::vector<float> gate(21, 0x1p-60F);
  std::vector<float> up(21);
  // silu(g) = gelu(g) = g / 2 here: 1 + exp(-|g|) rounds to 2.
  for (std::size_t i = 0; i < up.size(); ++i) up[i] = i % 2 == 0 ? 0x1p-65F * kHigh : 0x1p-65F;
  for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= i % 3 == 0 ? kLow : kBelow;
  for (const Kernels* level : runnable_kernels()) {
    std::vector<float> out(21);
    for (const auto gate_mul : {level->silu_mul, level->gelu_mul}) {
      gate_mul(gate.data(), up.data(), 21, out.data());
      for (std::size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], product(gate[i] / 2, up[i])) << level->name << i;
    }
  }
}

// A matrix of one panel, 40 rows of activations; every tile height and the last column.
struct Product {
  PackedFormat format;
  int k;
  std::vector<std::byte> memory;
  std::vector<std::int8_t> codes;
  std::vector<float> scales;
  std::vector<std::int32_t> sums;
  std::vector<float> totals;
  std::vector<float> x;
  std::byte* panel;

  Product(PackedFormat packed, int size)
      : format(packed),
        k(size),
        memory(packed_bytes(packed, 29, size) + 64),
        codes(static_cast<std::size_t>(16 * size)),
        scales(static_cast<std::size_t>(16 * size / 32 + 1)),
        sums(scales.size()),
        totals(scales.size()),
        x(codes.size()) {
    const auto at = reinterpret_cast<std::uintptr_t>(memory.data());
    panel = memory.data() + ((at + 63) / 64 * 64 - at);
  }
  std::vector<float> run(const Kernels& level, int m) {
    const PackedMatrix w = {format, 29, k, 1, packed_panel_bytes(format, k), panel};
    std::vector<float> c(static_cast<std::size_t>(29 * m), 77.0F);
    level.gemm(
        {.w = &w,
         .panel_begin = 0,
         .panel_end = 1,
         .quant = {.codes = codes.data(), .scale = scales.data(), .sum = sums.data(), .total = totals.data(), .k = k},
         .x = x.data(),
         .m = m,
         .c = c.data(),
         .c_stride = 29});
    return c;
  }
};

// Every code of a group is 1.
void fill_codes(std::byte* group, const GroupLayout& layout) {
  const int code = 1 + layout.zero;
  if (layout.code_bits == 8) {
    std::fill_n(group, layout.scale_offset, static_cast<std::byte>(code));
    return;
  }
  std::fill_n(group, layout.upper_offset, static_cast<std::byte>(17 * (code & 15)));
  const int upper = code >> 4;
  std::fill(group + layout.upper_offset, group + layout.scale_offset,
            static_cast<std::byte>(upper * (layout.upper_bits == 2 ? 0x55 : 0xff)));
}

TEST_F(Flush, FloatMatricesRoundBeforeTheyFlush) {
  Product product_of(PackedFormat::f32, 2);
  auto* w = reinterpret_cast<float*>(product_of.panel);
  for (int m = 1; m <= 14; ++m) {
    for (int column = 0; column < 32; ++column) {
      w[column] = 0x1p-60F;
      w[32 + column] = column % 2 == 0 ? -0x1p-76F : -0x1p-75F;
    }
    for (std::size_t row = 0; row < 16; ++row) {
      product_of.x[2 * row] = 0x1p-66F;
      product_of.x[2 * row + 1] = row % 3 == 2 ? 0.0F : 0x1p-75F;
    }
    for (const Kernels* level : runnable_kernels()) {
      const std::vector<float> c = product_of.run(*level, m);
      for (std::size_t i = 0; i < c.size(); ++i) {
        const bool beyond = i % 29 % 2 == 1 && i / 29 % 3 != 2;
        ASSERT_EQ(c[i], beyond ? 0.0F : kSmallest) << level->name << ", m=" << m << ", element " << i;
      }
    }
  }
}

TEST_F(Flush, ScalesOfQuantisedMatricesRoundBeforeTheyFlush) {
  for (const PackedFormat format : {PackedFormat::w4_min32, PackedFormat::w5_min32, PackedFormat::w6_half}) {
    const GroupLayout layout = group_layout(format);
    Product product_of(format, 32);
    // Every code is 1 and every activation 1: a dot of 32 (or twice 16), times a scale that is 2^-126 or nothing.
    fill_codes(product_of.panel, layout);
    auto* scales = reinterpret_cast<float*>(product_of.panel + layout.scale_offset);
    for (int i = 0; i < 32 * layout.scales; ++i) scales[i] = (i % 2 == 0 ? kLow : kBelow) * 0x1p-60F;
    if (layout.minimum) {
      auto* minima = reinterpret_cast<float*>(product_of.panel + layout.minimum_offset);
      for (int i = 0; i < 32; ++i) minima[i] = (i % 3 == 0 ? kLow : kBelow) * 0x1p-60F;
    }
    std::fill(product_of.codes.begin(), product_of.codes.end(), std::int8_t{1});
    std::fill(product_of.sums.begin(), product_of.sums.end(), 16 << 16 | 16);
    std::fill(product_of.totals.begin(), product_of.totals.end(), 32.0F);
    for (std::size_t row = 0; row < 16; ++row) product_of.scales[row] = (row % 4 == 3 ? 1.0F : kHigh) * 0x1p-66F;
    for (int m = 1; m <= 9; ++m) {
      for (const Kernels* level : runnable_kernels()) {
        const std::vector<float> c = product_of.run(*level, m);
        for (std::size_t i = 0; i < c.size(); ++i) {
          const bool exact_row = i / 29 % 4 == 3;
          float expected = !exact_row && i % 29 % 2 == 0 ? 0x1p-121F : 0.0F;
          if (layout.minimum && !exact_row && i % 29 % 3 == 0) expected += 0x1p-121F;
          ASSERT_EQ(c[i], expected) << level->name << ", m=" << m << ", element " << i;
        }
      }
    }
  }
}

// Scales that are f16, for which the pair of factors has to be looked for.
TEST_F(Flush, HalfScalesRoundBeforeTheyFlush) {
  int tried = 0;
  for (int significand = 1025; significand < 2048 && tried < 20; ++significand) {
    const float weight = static_cast<float>(significand) * 0x1p-10F;
    float scale = std::nextafter(1.0F / weight, 1.0F);
    while (static_cast<double>(scale) * static_cast<double>(weight) >= 1.0) scale = std::nextafter(scale, 0.0F);
    if (static_cast<double>(scale) * static_cast<double>(weight) < 1.0 - 0x1p-25) continue;
    ++tried;
    for (const PackedFormat format : {PackedFormat::w8, PackedFormat::w4, PackedFormat::w5, PackedFormat::w4_min}) {
      const GroupLayout layout = group_layout(format);
      Product product_of(format, 32);
      fill_codes(product_of.panel, layout);
      auto* scales = reinterpret_cast<std::uint16_t*>(product_of.panel + layout.scale_offset);
      for (int i = 0; i < 32; ++i)
        scales[i] = static_cast<std::uint16_t>(9 << 10 | (significand - 1024));  // times 2^-6
      std::fill(product_of.codes.begin(), product_of.codes.end(), std::int8_t{1});
      std::fill(product_of.sums.begin(), product_of.sums.end(), 16 << 16 | 16);
      std::fill(product_of.totals.begin(), product_of.totals.end(), 32.0F);
      std::fill(product_of.scales.begin(), product_of.scales.end(), scale * 0x1p-120F);
      for (const Kernels* level : runnable_kernels()) {
        for (const float value : product_of.run(*level, 3)) EXPECT_EQ(value, 0x1p-121F) << level->name;
      }
    }
  }
  EXPECT_EQ(tried, 20);
}

TEST_F(Flush, MergedAndFinishedRowsRoundBeforeTheyFlush) {
  ASSERT_EQ(1.0F / kLow, kHigh);
  for (const Kernels* level : runnable_kernels()) {
    alignas(64) float total[16];
    alignas(64) float part[16];
    std::fill_n(total, 16, kSmallest);
    for (int i = 0; i < 16; ++i) part[i] = i % 2 == 0 ? -0x1p-100F : -0x1p-75F;  // times exp(-40): far below, or not
    AttentionState a = {.m = 40.0F, .l = 1.0F, .o = total};
    const AttentionState b = {.m = 0.0F, .l = 1.0F, .o = part};
    level->merge(a, b, 16);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(total[i], i % 2 == 0 ? kSmallest : 0.0F) << level->name;

    float out[16];
    for (int i = 0; i < 16; ++i) total[i] = (i % 2 == 0 ? kLow : kBelow) * 0x1p-60F;
    a = {.m = 0.0F, .l = kLow * 0x1p66F, .o = total};
    level->finish(a, 16, out);
    for (int i = 0; i < 16; ++i) EXPECT_EQ(out[i], i % 2 == 0 ? kSmallest : 0.0F) << level->name;
  }
}

}  // namespace
}  // namespace dalsegno
