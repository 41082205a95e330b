#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/levels.hpp"
#include "kernels/self_check.hpp"

namespace dalsegno {
namespace {

struct Quantiser {
  const char* name;
  bool (*quantise)(const float* x, int row, const QuantRows& out);
};

std::vector<Quantiser> levels() {
  std::vector<Quantiser> all;
  for (const Kernels* level : runnable_kernels()) all.push_back({level->name, level->quantise});
  return all;
}

// Three rows of activations quantised to 8 or 16 bits, filled with what no test expects.
struct Quantised {
  Quantised(int k, int precision)
      : bits(precision),
        codes(static_cast<std::size_t>(3 * k), 99),
        codes16(codes.size(), 99),
        scale(codes.size() / 32, 99.0F),
        sum(2 * scale.size(), 99),
        total(scale.size(), 99.0F),
        rows{.codes = bits == 8 ? codes.data() : nullptr,
             .codes16 = bits == 16 ? codes16.data() : nullptr,
             .scale = scale.data(),
             .sum = sum.data(),
             .total = total.data(),
             .k = k} {}
  int bits;
  std::vector<std::int8_t> codes;
  std::vector<std::int16_t> codes16;
  std::vector<float> scale;
  std::vector<std::int32_t> sum;
  std::vector<float> total;
  QuantRows rows;

  bool operator==(const Quantised& other) const {
    const auto same = [](float a, float b) {
      return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
    };
    return codes == other.codes && codes16 == other.codes16 && sum == other.sum && total == other.total &&
           std::equal(scale.begin(), scale.end(), other.scale.begin(), same);
  }
};

// Code `at` of all; 16 bits: k1 and k2 of each quad change places.
void put_code(Quantised& out, std::size_t at, int code) {
  constexpr std::size_t kPlace[4] = {0, 2, 1, 3};
  if (out.bits == 16) {
    EXPECT_LE(std::abs(code), 32639);
    out.codes16[at / 4 * 4 + kPlace[at % 4]] = static_cast<std::int16_t>(code);
  } else {
    EXPECT_LE(std::abs(code), 127);
    out.codes[at] = static_cast<std::int8_t>(code);
  }
}

// The rule, value by value, into row 1.
bool expected_row(const std::vector<float>& x, Quantised& out) {
  const std::size_t groups = x.size() / 32;
  const bool finite = std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
  for (std::size_t g = 0; g < groups; ++g) {
    float amax = 0;
    for (std::size_t i = 0; i < 32; ++i) amax = std::max(amax, std::fabs(x[g * 32 + i]));
    float scale = amax / (out.bits == 16 ? 32639.0F : 127.0F);
    if (!finite || scale < std::numeric_limits<float>::min()) scale = 0;
    int sums[2] = {0, 0};
    for (std::size_t i = 0; i < 32; ++i) {
      const int code = scale == 0 ? 0 : static_cast<int>(std::nearbyint(x[g * 32 + i] / scale));
      put_code(out, x.size() + g * 32 + i, code);
      sums[i / 16] += code;
    }
    out.scale[groups + g] = scale;
    out.total[groups + g] = static_cast<float>(sums[0] + sums[1]);
    if (out.bits == 16) {
      out.sum[2 * (groups + g)] = sums[0] + sums[1];
      out.sum[2 * (groups + g) + 1] = sums[0];
    } else {
      out.sum[groups + g] = static_cast<std::int32_t>(static_cast<std::uint32_t>(sums[0] & 0xffff) |
                                                      static_cast<std::uint32_t>(sums[1]) << 16);
    }
  }
  return finite;
}

void expect_rule_on_every_level(const std::vector<float>& x) {
  const int k = static_cast<int>(x.size());
  for (const int bits : {8, 16}) {
    Quantised expected(k, bits);
    const bool finite = expected_row(x, expected);
    for (const Quantiser& level : levels()) {
      Quantised out(k, bits);
      EXPECT_EQ(level.quantise(x.data(), 1, out.rows), finite) << level.name << ", k=" << k << ", bits=" << bits;
      EXPECT_TRUE(out == expected) << level.name << ", k=" << k << ", bits=" << bits;
    }
  }
}

class Quantise : public ::testing::Test {
 protected:
  std::vector<float> normal(int k, float size) {
    std::normal_distribution<float> distribution;
    std::vector<float> x(static_cast<std::size_t>(k));
    for (float& value : x) value = size * distribution(random_);
    return x;
  }
  FloatState state_;
  std::mt19937 random_{1};
};

TEST_F(Quantise, EveryNumberOfGroupsFollowsTheRule) {
  for (int groups = 1; groups <= 80; ++groups) expect_rule_on_every_level(normal(32 * groups, 1.0F));
}

TEST_F(Quantise, EveryMagnitudeFollowsTheRule) {
  for (int exponent = -149; exponent <= 126; ++exponent) {
    std::vector<float> x = normal(64, 1.0F);
    for (float& value : x)
      value = std::bit_cast<float>((std::bit_cast<std::uint32_t>(value) & 0x807fffffU) |
                                   static_cast<std::uint32_t>(std::max(0, exponent + 127)) << 23);
    expect_rule_on_every_level(x);
  }
}

TEST_F(Quantise, ValuesHalfwayRoundToEven) {
  std::vector<float> x(32);
  for (const float largest : {127.0F, 32639.0F}) {  // the scale is 1 in one precision
    for (std::size_t i = 0; i < 31; ++i) x[i] = static_cast<float>(i) - 15.5F;
    x[31] = largest;
    expect_rule_on_every_level(x);
  }
}

// At and beside the halves of the scale, where a product with 1 / scale would round another way.
TEST_F(Quantise, ValuesBesideAHalfAreDivided) {
  for (int round = 0; round < 300; ++round) {
    std::vector<float> x = normal(32, 1.0F);
    const float largest = 4.0F + std::fabs(x[0]);
    const bool wide = round % 2 == 1;
    const float scale = largest / (wide ? 32639.0F : 127.0F);
    for (std::size_t i = 1; i < 31; ++i) {
      const std::size_t code = (i + 31 * static_cast<std::size_t>(round % 8 / 2)) * (wide ? 257 : 1);
      const float half = (static_cast<float>(code) + 0.5F) * scale;
      x[i] = i % 3 == 0 ? half : std::nextafter(half, i % 3 == 1 ? 0.0F : 1e9F);
    }
    x[31] = largest;
    expect_rule_on_every_level(x);
  }
}

TEST_F(Quantise, ScalesAtTheSmallestNormalAreKeptAndBelowItAreZero) {
  for (const int bits : {8, 16}) {
    const float edge = 0x1p-126F * (bits == 16 ? 32639.0F : 127.0F);
    for (const float largest : {edge, std::nextafter(edge, 0.0F), std::nextafter(edge, 1.0F), 0x1p-126F, 0x1p-149F}) {
      std::vector<float> x(64, largest / 3.0F);
      x[40] = -largest;
      expect_rule_on_every_level(x);
    }
    Quantised out(32, bits);
    std::vector<float> below(32, std::nextafter(edge, 0.0F) / 2);
    EXPECT_TRUE(scalar::quantise(below.data(), 1, out.rows));
    EXPECT_EQ(out.scale[1], 0.0F);
    EXPECT_EQ(bits == 8 ? out.codes[32] : out.codes16[32], 0);
  }
}

TEST_F(Quantise, DenormalsAndZerosCountAsZero) {
  std::vector<float> x(32, 0x1p-130F);
  expect_rule_on_every_level(x);
  x[3] = 1.0F;
  x[4] = -0.0F;
  expect_rule_on_every_level(x);
  expect_rule_on_every_level(std::vector<float>(96, 0.0F));
}

TEST_F(Quantise, LargestValuesFollowTheRule) {
  std::vector<float> x = normal(64, 1e38F);
  for (float& value : x) value = std::clamp(value, -3.4e38F, 3.4e38F);
  x[7] = std::numeric_limits<float>::max();
  x[9] = std::numeric_limits<float>::lowest();
  expect_rule_on_every_level(x);
}

TEST_F(Quantise, OneValueThatIsNotFiniteFailsTheRowAndStoresZeros) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    for (const std::size_t place : {0U, 31U, 45U, 95U}) {
      std::vector<float> x = normal(96, 1.0F);
      x[place] = bad;
      expect_rule_on_every_level(x);
    }
  }
}

}  // namespace
}  // namespace dalsegno
