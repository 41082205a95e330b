#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/levels.hpp"
#include "kernels/self_check.hpp"
#include "tensor/half.hpp"
#include "tensor/packing.hpp"

// Every level gives the bits of the contract: scalar against a reference written here output by output, from
// weights that were never packed by the library; the other levels against scalar.
namespace dalsegno {
namespace {

constexpr PackedFormat kFormats[] = {
    PackedFormat::w8,       PackedFormat::w4,      PackedFormat::w5,  PackedFormat::w4_min, PackedFormat::w4_min32,
    PackedFormat::w5_min32, PackedFormat::w6_half, PackedFormat::f32, PackedFormat::f16,    PackedFormat::bf16};
constexpr float kUntouched = 12345.0F;

// Bits of activations; a matrix of floats takes floats.
std::vector<int> precisions(PackedFormat format) {
  return is_float(format) ? std::vector<int>{8} : std::vector<int>{8, 16};
}

// Code `at` of all, in the order of k.
int code_of(const QuantRows& rows, int at) {
  constexpr int kOrder[4] = {0, 2, 1, 3};
  return rows.codes16 == nullptr ? rows.codes[at] : rows.codes16[at / 4 * 4 + kOrder[at % 4]];
}

struct Level {
  const char* name;
  void (*gemm)(const GemmArgs& args);
};

std::vector<Level> accelerated_levels() {
  std::vector<Level> levels;
  for (const Kernels* level : runnable_kernels()) {
    if (level->gemm != scalar::gemm) levels.push_back({level->name, level->gemm});
  }
  return levels;
}

struct AlignedBytes {
  explicit AlignedBytes(std::size_t size) : data(static_cast<std::byte*>(std::aligned_alloc(64, size))) {
    std::memset(data, 0, size);
  }
  ~AlignedBytes() { std::free(data); }
  AlignedBytes(const AlignedBytes&) = delete;
  AlignedBytes& operator=(const AlignedBytes&) = delete;
  std::byte* data;
};

enum class Scales { ordinary, extreme };

// A random matrix [n, k] as numbers, and the same written in the layout that packing.hpp draws.
class Weights {
 public:
  Weights(PackedFormat format, int n, int k, Scales scales, unsigned seed)
      : random_(seed), scales_(scales), panels_((n + 31) / 32), bytes_(packed_bytes(format, n, k)) {
    matrix = {format, n, k, panels_, packed_panel_bytes(format, k), bytes_.data};
    if (is_float(format)) {
      fill_floats();
    } else {
      fill_quantised();
    }
  }

  // The contract, for one output.
  [[nodiscard]] float output(int column, const QuantRows& a, int row) const {
    const int groups = matrix.k / 32;
    const bool halves = matrix.format == PackedFormat::w6_half;
    float acc = 0;
    for (int g = 0; g < groups; ++g) {
      int dots[2] = {0, 0};
      int sum = 0;
      for (int i = 0; i < 32; ++i) {
        const int code = code_of(a, row * matrix.k + g * 32 + i);
        dots[halves ? i / 16 : 0] += code * codes[at(column, g * 32 + i)];
        sum += code;
      }
      const float scale_a = a.scale[row * groups + g];
      for (int h = 0; h < (halves ? 2 : 1); ++h) {
        const float s = scale[at(column, g * 32 + 16 * h) / 16] * scale_a;
        acc = std::fma(static_cast<float>(dots[h]), s, acc);
      }
      if (group_layout(matrix.format).minimum) {
        const float t = minimum[at(column, g * 32) / 16] * scale_a;
        acc = std::fma(static_cast<float>(sum), t, acc);
      }
    }
    return acc;
  }
  [[nodiscard]] float output(int column, const float* x) const {
    float acc = 0;
    for (int i = 0; i < matrix.k; ++i) acc = std::fma(x[i], values[at(column, i)], acc);
    return acc;
  }

  PackedMatrix matrix;
  std::vector<int> codes;      // [n, k]
  std::vector<float> scale;    // [n, k / 16]
  std::vector<float> minimum;  // [n, k / 16], every other one used
  std::vector<float> values;   // [n, k], float formats

 private:
  [[nodiscard]] std::size_t at(int column, int i) const {
    return static_cast<std::size_t>(column) * static_cast<std::size_t>(matrix.k) + static_cast<std::size_t>(i);
  }

  int below(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }

  // Zero, denormal, largest, or any finite f16.
  std::uint16_t half_bits() {
    const auto sign = static_cast<std::uint16_t>(below(2) << 15);
    if (scales_ == Scales::ordinary) return static_cast<std::uint16_t>(sign | (0x1400 + below(0x600)));
    const int kind = below(6);
    const int magnitude = kind == 0 ? 0 : kind == 1 ? below(0x400) : kind == 2 ? 0x7bff : below(0x7c00);
    return static_cast<std::uint16_t>(sign | magnitude);
  }
  float wide() {
    if (scales_ == Scales::ordinary) return std::ldexp(static_cast<float>(below(4001) - 2000), -18);
    const int kind = below(6);
    if (kind == 0) return 0;
    if (kind == 1) return std::bit_cast<float>(static_cast<std::uint32_t>(below(0x800000)));  // denormal
    return std::ldexp(static_cast<float>(below(0x1000000) - 0x800000), below(180) - 130);
  }

  // Stores a scale or minimum of (column, entry) and returns its value. `offset`: of its row of 32 in a group.
  float put_scale(std::byte* group, int offset, int column) {
    if (group_layout(matrix.format).scale_bytes == 4) {
      const float value = wide();
      std::memcpy(group + offset + 4 * column, &value, 4);
      return value;
    }
    const std::uint16_t bits = half_bits();
    std::memcpy(group + offset + 2 * column, &bits, 2);
    return half_to_float(bits);
  }

  void put_code(std::byte* group, int column, int i, int stored) {
    const bool nibbles = group_layout(matrix.format).code_bits < 8;
    const int row = nibbles ? i / 8 : i / 4;
    const bool high = nibbles && i / 4 % 2 == 1;
    const int low = nibbles ? stored & 15 : stored;
    group[row * 128 + column * 4 + i % 4] |= static_cast<std::byte>(high ? low << 4 : low);
    if (nibbles && group_layout(matrix.format).code_bits == 6) {
      group[512 + i / 16 * 128 + column * 4 + i % 4] |= static_cast<std::byte>(stored >> 4 << i / 4 % 4 * 2);
    } else if (nibbles) {
      group[512 + column * 4 + i % 4] |= static_cast<std::byte>(stored >> 4 << i / 4);
    }
  }

  void fill_quantised() {
    const GroupLayout layout = group_layout(matrix.format);
    const int top = (1 << layout.code_bits) - 1;
    codes.resize(at(matrix.n, 0));
    scale.resize(codes.size() / 16);
    minimum.resize(codes.size() / 16);
    for (int column = 0; column < matrix.n; ++column) {
      for (int g = 0; g < matrix.k / 32; ++g) {
        std::byte* group = bytes_.data + static_cast<std::size_t>(column / 32) * matrix.panel_bytes + g * layout.bytes;
        const int lane = column % 32;
        for (int i = 0; i < 32; ++i) {  // the first two columns hold the largest and the smallest codes
          const int stored = column == 0 ? top : column == 1 ? 0 : below(top + 1);
          put_code(group, lane, i, stored);
          codes[at(column, g * 32 + i)] = stored - layout.zero;
        }
        const std::size_t entry = at(column, g * 32) / 16;
        scale[entry] = scale[entry + 1] = put_scale(group, layout.scale_offset, lane);
        if (layout.scales == 2) scale[entry + 1] = put_scale(group, layout.scale_offset + 128, lane);
        if (layout.minimum) minimum[entry] = put_scale(group, layout.minimum_offset, lane);
      }
    }
  }

  void fill_floats() {
    values.resize(at(matrix.n, 0));
    for (int column = 0; column < matrix.n; ++column) {
      for (int i = 0; i < matrix.k; ++i) {
        std::byte* panel = bytes_.data + static_cast<std::size_t>(column / 32) * matrix.panel_bytes;
        const int element = i * 32 + column % 32;
        float& value = values[at(column, i)];
        if (matrix.format == PackedFormat::f16) {
          const std::uint16_t bits = half_bits();
          std::memcpy(panel + 2 * element, &bits, 2);
          value = half_to_float(bits);
        } else if (matrix.format == PackedFormat::bf16) {
          const std::uint32_t bits = std::bit_cast<std::uint32_t>(wide()) >> 16;
          std::memcpy(panel + 2 * element, &bits, 2);
          value = std::bit_cast<float>(bits << 16);
        } else {
          value = wide();
          std::memcpy(panel + 4 * element, &value, 4);
        }
      }
    }
  }

  std::mt19937 random_;
  Scales scales_;
  int panels_;
  AlignedBytes bytes_;
};

// Rows of activations [m, k], as floats and quantised to 8 or 16 bits.
class Activations {
 public:
  Activations(int m, int k, Scales scales, unsigned seed, int bits = 8)
      : x(static_cast<std::size_t>(m * k)),
        codes_(x.size()),
        codes16_(x.size()),
        scale_(x.size() / 32 + 1),
        sum_(2 * scale_.size()),
        total_(scale_.size()) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const int exponent = scales == Scales::extreme ? static_cast<int>(i / 32 * 2654435761U % 240U) - 120 : 0;
      x[i] = std::ldexp(normal(random), exponent);
    }
    quant = {.codes = bits == 8 ? codes_.data() : nullptr,
             .codes16 = bits == 16 ? codes16_.data() : nullptr,
             .scale = scale_.data(),
             .sum = sum_.data(),
             .total = total_.data(),
             .k = k};
    if (k % 32 != 0) return;
    for (int row = 0; row < m; ++row) {
      // The first two rows hold the largest and the smallest codes.
      const float fixed = row == 0 ? 127.0F : -127.0F;
      for (int i = 0; row < 2 && i < k; ++i) x[static_cast<std::size_t>(row * k + i)] = fixed;
      EXPECT_TRUE(scalar::quantise(x.data() + row * k, row, quant));
    }
  }

  std::vector<float> x;
  QuantRows quant;

 private:
  std::vector<std::int8_t> codes_;
  std::vector<std::int16_t> codes16_;
  std::vector<float> scale_;
  std::vector<std::int32_t> sum_;
  std::vector<float> total_;
};

bool same(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
}

GemmArgs arguments(const Weights& w, const Activations& a, int m, std::vector<float>& c, std::size_t stride) {
  GemmArgs args;
  args.w = &w.matrix;
  args.panel_end = w.matrix.panels;
  args.quant = a.quant;
  args.x = a.x.data();
  args.m = m;
  args.c = c.data();
  args.c_stride = stride;
  return args;
}

// C [rows, stride], all elements kUntouched before.
std::vector<float> product(const Level& level, const Weights& w, const Activations& a, int m, std::size_t stride,
                           int rows, bool large_l1 = false) {
  std::vector<float> c(static_cast<std::size_t>(rows) * stride, kUntouched);
  GemmArgs args = arguments(w, a, m, c, stride);
  args.large_l1 = large_l1;
  level.gemm(args);
  return c;
}

// The first m rows of `expected`; everything beyond them and beyond n untouched.
::testing::AssertionResult equals_rows(const std::vector<float>& c, const std::vector<float>& expected, int m, int n,
                                       std::size_t stride) {
  for (std::size_t i = 0; i < c.size(); ++i) {
    const std::size_t row = i / stride;
    const std::size_t column = i % stride;
    const bool inside = row < static_cast<std::size_t>(m) && column < static_cast<std::size_t>(n);
    const float wanted = inside ? expected[i] : kUntouched;
    if (same(c[i], wanted)) continue;
    return ::testing::AssertionFailure() << "row " << row << ", column " << column << " of m=" << m << ": " << c[i]
                                         << ", expected " << wanted;
  }
  return ::testing::AssertionSuccess();
}

std::string describe(const char* level, PackedFormat format, int k, int bits = 8) {
  return std::string(level) + ", format " + std::to_string(static_cast<int>(format)) + ", k=" + std::to_string(k) +
         ", " + std::to_string(bits) + " bits";
}

const Level kScalar = {"scalar", scalar::gemm};

class Gemm : public ::testing::Test {
 protected:
  FloatState state_;
};

void expect_contract(PackedFormat format, Scales scales, int bits) {
  const int n = 37;
  const int k = 96;
  const int m = 35;
  const Weights w(format, n, k, scales, 1);
  const Activations a(m, k, scales, 2, bits);
  const std::vector<float> c = product(kScalar, w, a, m, n, m);
  for (int row = 0; row < m; ++row) {
    for (int column = 0; column < n; ++column) {
      const float wanted = is_float(format) ? w.output(column, a.x.data() + row * k) : w.output(column, a.quant, row);
      ASSERT_TRUE(same(c[static_cast<std::size_t>(row * n + column)], wanted))
          << describe("scalar", format, k, bits) << ", row " << row << ", column " << column;
    }
  }
}

TEST_F(Gemm, ScalarFollowsTheContractForEveryOutput) {
  for (const PackedFormat format : kFormats) {
    for (const Scales scales : {Scales::ordinary, Scales::extreme}) {
      for (const int bits : precisions(format)) expect_contract(format, scales, bits);
    }
  }
}

void expect_the_bits_of_scalar_for_every_m(PackedFormat format, int k, int bits) {
  constexpr int rows = 70;
  constexpr int n = 70;
  constexpr std::size_t stride = 73;
  const Weights w(format, n, k, k == 96 ? Scales::extreme : Scales::ordinary, static_cast<unsigned>(k));
  const Activations a(rows, k, k == 96 ? Scales::extreme : Scales::ordinary, 3, bits);
  const std::vector<float> expected = product(kScalar, w, a, rows, stride, rows);
  for (const Level& level : accelerated_levels()) {
    for (int m = 1; m <= rows; ++m) {
      for (const bool large_l1 : {false, true}) {
        ASSERT_TRUE(equals_rows(product(level, w, a, m, stride, rows, large_l1), expected, m, n, stride))
            << describe(level.name, format, k, bits) << (large_l1 ? ", a large L1" : "");
      }
    }
  }
}

// Tiles of all heights, full and partial panels, lengths from one group to many.
TEST_F(Gemm, EveryLevelHasTheBitsOfScalarForEveryNumberOfRows) {
  for (const PackedFormat format : kFormats) {
    for (const int k : {32, 64, 96, 576}) {
      for (const int bits : precisions(format)) expect_the_bits_of_scalar_for_every_m(format, k, bits);
    }
  }
}

TEST_F(Gemm, ScalarRowsDoNotDependOnHowManyThereAre) {
  for (const PackedFormat format : kFormats) {
    const Weights w(format, 33, 64, Scales::extreme, 4);
    for (const int bits : precisions(format)) {
      const Activations a(70, 64, Scales::extreme, 5, bits);
      const std::vector<float> expected = product(kScalar, w, a, 70, 33, 70);
      for (const int m : {1, 2, 31, 32, 33, 64}) {
        ASSERT_TRUE(equals_rows(product(kScalar, w, a, m, 33, 70), expected, m, 33, 33))
            << describe("scalar", format, 64, bits);
      }
    }
  }
}

void expect_long_rows_agree(PackedFormat format, int k, int bits) {
  const Weights w(format, 65, k, Scales::extreme, 6);
  const Activations a(13, k, Scales::extreme, 7, bits);
  const std::vector<float> expected = product(kScalar, w, a, 13, 65, 13);
  for (const Level& level : accelerated_levels()) {
    for (const int m : {1, 6, 13}) {
      ASSERT_TRUE(equals_rows(product(level, w, a, m, 65, 13), expected, m, 65, 65))
          << describe(level.name, format, k, bits);
    }
  }
}

TEST_F(Gemm, LongRowsAndExtremeScalesAgree) {
  for (const PackedFormat format : kFormats) {
    for (const int k : {1536, 4128}) {
      for (const int bits : precisions(format)) expect_long_rows_agree(format, k, bits);
    }
  }
}

TEST_F(Gemm, FloatFormatsTakeEveryLength) {
  for (const PackedFormat format : {PackedFormat::f32, PackedFormat::f16, PackedFormat::bf16}) {
    for (int k = 1; k <= 300; ++k) {
      const Scales scales = k % 2 == 0 ? Scales::ordinary : Scales::extreme;
      const Weights w(format, 35, k, scales, static_cast<unsigned>(k));
      const Activations a(13, k, scales, 8);
      const std::vector<float> expected = product(kScalar, w, a, 13, 37, 13);
      for (const Level& level : accelerated_levels()) {
        for (const int m : {1, 2, 13}) {
          ASSERT_TRUE(equals_rows(product(level, w, a, m, 37, 13), expected, m, 35, 37))
              << describe(level.name, format, k);
        }
      }
    }
  }
}

TEST_F(Gemm, PanelRangesTouchOnlyTheirColumns) {
  constexpr int n = 100;
  std::vector<Level> levels = accelerated_levels();
  levels.push_back(kScalar);
  for (const PackedFormat format : kFormats) {
    const Weights w(format, n, 64, Scales::ordinary, 9);
    const Activations a(7, 64, Scales::ordinary, 10);
    const std::vector<float> whole = product(kScalar, w, a, 7, n, 7);
    for (const Level& level : levels) {
      std::vector<float> c(whole.size(), kUntouched);
      GemmArgs args = arguments(w, a, 7, c, n);
      args.panel_begin = 1;
      args.panel_end = 3;
      level.gemm(args);
      for (std::size_t i = 0; i < c.size(); ++i) {
        const bool inside = i % n >= 32 && i % n < 96;
        ASSERT_TRUE(same(c[i], inside ? whole[i] : kUntouched))
            << describe(level.name, format, 64) << ", element " << i;
      }
    }
  }
}

void expect_bias_before_former(PackedFormat format, int bits, const std::vector<float>& bias, std::mt19937& random) {
  const std::size_t n = bias.size();
  std::vector<Level> levels = accelerated_levels();
  levels.push_back(kScalar);
  const Activations a(8, 64, Scales::ordinary, 12, bits);
  const Weights w(format, static_cast<int>(n), 64, Scales::ordinary, 11);
  const std::vector<float> plain = product(kScalar, w, a, 8, n, 8);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> former(plain.size());
  for (float& value : former) value = normal(random);
  for (const Level& level : levels) {
    for (const bool with_bias : {false, true}) {
      for (const bool add : {false, true}) {
        std::vector<float> c = former;
        GemmArgs args = arguments(w, a, 8, c, n);
        args.bias = with_bias ? bias.data() : nullptr;
        args.add = add;
        level.gemm(args);
        for (std::size_t i = 0; i < c.size(); ++i) {
          const float biased = with_bias ? plain[i] + bias[i % n] : plain[i];
          ASSERT_TRUE(same(c[i], add ? former[i] + biased : biased)) << describe(level.name, format, 64, bits);
        }
      }
    }
  }
}

TEST_F(Gemm, BiasIsAddedBeforeTheFormerValue) {
  std::mt19937 random(13);
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> bias(45);
  for (float& value : bias) value = normal(random);
  for (const PackedFormat format : kFormats) {
    for (const int bits : precisions(format)) expect_bias_before_former(format, bits, bias, random);
  }
}

TEST_F(Gemm, NotANumberStaysInItsRow) {
  std::vector<Level> levels = accelerated_levels();
  levels.push_back(kScalar);
  const Weights w(PackedFormat::f32, 40, 32, Scales::ordinary, 14);
  Activations a(3, 32, Scales::ordinary, 15);
  a.x[32 + 5] = std::nanf("");
  for (const Level& level : levels) {
    const std::vector<float> c = product(level, w, a, 3, 40, 3);
    for (std::size_t i = 0; i < c.size(); ++i) EXPECT_EQ(std::isnan(c[i]), i / 40 == 1) << level.name;
  }
}

}  // namespace
}  // namespace dalsegno
