#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/kernels.hpp"
#include "kernels/levels.hpp"
#include "kernels/self_check.hpp"

namespace dalsegno {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr int kLongest = 300;

std::uint32_t as_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float as_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

std::uint16_t to_bf16(float x) {
  std::uint16_t half;
  scalar::store_q(&x, 1, KvFormat::bf16, &half);
  return half;
}

// A buffer of n values that starts `shift` floats beyond a 64-byte boundary, with a guard on both sides.
class Span {
 public:
  Span(int n, int shift) : n_(n), memory_(static_cast<std::size_t>(n + 80), kGuard) {
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.data()) / sizeof(float) % 16;
    first_ = static_cast<std::size_t>(32 - at) + static_cast<std::size_t>(shift);
  }
  float* data() { return memory_.data() + first_; }
  [[nodiscard]] std::vector<float> values() const {
    const auto begin = memory_.begin() + static_cast<std::ptrdiff_t>(first_);
    return {begin, begin + n_};
  }
  [[nodiscard]] bool guarded() const {
    for (std::size_t i = 0; i < memory_.size(); i++) {
      const bool inside = i >= first_ && i < first_ + static_cast<std::size_t>(n_);
      if (!inside && memory_[i] != kGuard) return false;
    }
    return true;
  }

 private:
  static constexpr float kGuard = 77.25F;
  int n_;
  std::vector<float> memory_;
  std::size_t first_;
};

enum class Values { normal, any_exponent, tiny };

class Source {
 public:
  explicit Source(unsigned seed) : random_(seed) {}
  float value(Values kind) {
    const float x = normal_(random_);
    if (kind == Values::any_exponent)
      return as_float((as_bits(x) & 0x807fffff) | static_cast<std::uint32_t>(random_() % 255) << 23);
    if (kind == Values::tiny)
      return as_float((as_bits(x) & 0x807fffff) | static_cast<std::uint32_t>(random_() % 6) << 23);
    return x;
  }
  void fill(Span& span, int n, Values kind) {
    for (int i = 0; i < n; i++) span.data()[i] = value(kind);
  }

 private:
  std::mt19937_64 random_;
  std::normal_distribution<float> normal_;
};

// NaN equals NaN: its bits are not promised.
testing::AssertionResult same(const std::vector<float>& expected, const std::vector<float>& got) {
  for (std::size_t i = 0; i < expected.size(); i++) {
    if (std::isnan(expected[i]) && std::isnan(got[i])) continue;
    if (as_bits(expected[i]) != as_bits(got[i])) {
      return testing::AssertionFailure() << "at " << i << ": " << expected[i] << " and " << got[i];
    }
  }
  return testing::AssertionSuccess();
}

const Kernels& scalar_level() {
  return *runnable_kernels().front();
}

class Rows : public testing::Test {
 protected:
  // Calls run(level, x, y, out) for all levels, lengths, alignments and kinds of values; what it leaves in
  // x and out, and returns, must have the bits of the scalar level.
  template <class Run>
  void compare(Run run) {
    for (int n = 1; n <= kLongest; n++) {
      for (Values kind : {Values::normal, Values::any_exponent, Values::tiny}) compare_one(n, n % 17, kind, run);
    }
  }

  template <class Run>
  void compare_one(int n, int shift, Values kind, Run run) {
    std::vector<float> expected_x;
    std::vector<float> expected_out;
    float expected = 0;
    for (const Kernels* level : runnable_kernels()) {
      const int own = level == &scalar_level() ? 0 : shift;
      Span x(n, own);
      Span y(n, (own + 3) % 17);
      Span out(n, (own + 5) % 17);
      Source source(static_cast<unsigned>(n));
      source.fill(x, n, kind);
      source.fill(y, n, kind);
      const float returned = run(*level, n, x.data(), y.data(), out.data());
      ASSERT_TRUE(x.guarded() && y.guarded() && out.guarded()) << level->name << " wrote outside, n = " << n;
      if (level == &scalar_level()) {
        expected_x = x.values();
        expected_out = out.values();
        expected = returned;
        continue;
      }
      ASSERT_TRUE(same(expected_x, x.values())) << level->name << " n = " << n;
      ASSERT_TRUE(same(expected_out, out.values())) << level->name << " n = " << n;
      ASSERT_TRUE(same({expected}, {returned})) << level->name << " n = " << n;
    }
  }

  FloatState state_;
};

TEST_F(Rows, RmsNormAgrees) {
  compare([](const Kernels& level, int n, float* x, float* y, float* out) {
    level.rms_norm(x, y, n, 1e-5F, out);
    level.rms_norm(x, y, n, 1e-5F, x);  // in place
    return 0.0F;
  });
}

TEST_F(Rows, ScaleAndAddAgree) {
  compare([](const Kernels& level, int n, float* x, float* y, float*) {
    level.add(x, y, n);
    level.scale(x, n, 0x1.fffffep-1F);
    return 0.0F;
  });
}

TEST_F(Rows, SiluAndGeluAgree) {
  for (auto gate : {&Kernels::silu_mul, &Kernels::gelu_mul}) {
    compare([&](const Kernels& level, int n, float* x, float* y, float* out) {
      if (n > 8) {
        x[0] = 0.0F;
        x[1] = -0.0F;
        x[2] = 87.5F;
        x[3] = -87.5F;
        x[4] = kNaN;
        x[5] = kInfinity;
        x[6] = -kInfinity;
        x[7] = -1e30F;  // its square is infinite
      }
      (level.*gate)(x, y, n, out);
      (level.*gate)(x, y, n, x);
      EXPECT_EQ(std::memcmp(x, out, static_cast<std::size_t>(n) * sizeof(float)), 0) << level.name << ", in place";
      return 0.0F;
    });
  }
}

TEST_F(Rows, GeluIsAccurateAndHasNoJump) {
  const float one = 1.0F;
  double worst = 0;
  for (float g = -9.9F; g < 14.0F; g += 0x1.8p-11F) {
    const double x = static_cast<double>(g);
    const double z = 2 * std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
    float out;
    scalar::gelu_mul(&g, &one, 1, &out);
    // Relative, for negative values too, whose exp(z) carries the error of z. Below, exp is 0.
    const double exact = x / (1 + std::exp(-z));
    if (g != 0) worst = std::max(worst, std::fabs(static_cast<double>(out) / exact - 1) / (1 + std::fabs(z)));
  }
  EXPECT_LT(worst, 2.5e-7);
}

TEST_F(Rows, RopeAgrees) {
  for (bool interleaved : {false, true}) {
    compare([&](const Kernels& level, int n, float* x, float* y, float* out) {
      std::memcpy(out, x, static_cast<std::size_t>(n) * sizeof(float));
      level.rope(out, n / 2 * 2, y, y + n / 2, interleaved);
      return 0.0F;
    });
  }
}

TEST_F(Rows, StoreQAgrees) {
  compare([](const Kernels& level, int n, float* x, float*, float* out) {
    if (n > 8) x[7] = kNaN;
    level.store_q(x, n, KvFormat::f32, out);
    std::vector<std::uint16_t> halves(static_cast<std::size_t>(n + 1), 0x1234);
    level.store_q(x, n, KvFormat::bf16, halves.data());
    EXPECT_EQ(halves.back(), 0x1234);
    for (int i = 0; i < n; i++)
      out[i] = as_float(static_cast<std::uint32_t>(halves[static_cast<std::size_t>(i)]) << 16);
    return 0.0F;
  });
}

TEST_F(Rows, ExpSumAgrees) {
  compare([](const Kernels& level, int n, float* x, float*, float* out) {
    for (int i = 0; i < n; i++) x[i] = -std::fabs(x[i]);
    if (n > 8) x[3] = -kInfinity;
    return level.exp_sum(x, n, 0.5F, out);
  });
}

TEST_F(Rows, AllFiniteSeesEveryPosition) {
  for (const Kernels* level : runnable_kernels()) {
    for (int n = 1; n <= 70; n++) {
      Span x(n, n % 17);
      for (int i = 0; i < n; i++) x.data()[i] = std::numeric_limits<float>::max();
      EXPECT_TRUE(level->all_finite(x.data(), n));
      for (int i = 0; i < n; i++) {
        for (float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
          x.data()[i] = bad;
          EXPECT_FALSE(level->all_finite(x.data(), n)) << level->name << " " << i << " of " << n;
        }
        x.data()[i] = std::numeric_limits<float>::denorm_min();
      }
    }
  }
}

TEST_F(Rows, KeysAndValuesLandInTheirSlots) {
  Source source(5);
  for (KvFormat format : {KvFormat::bf16, KvFormat::f32}) {
    for (int dim : {16, 48, 64, 112, 256}) {
      const std::size_t words = static_cast<std::size_t>(kBlockTokens * dim) * element_bytes(format) / 4;
      std::vector<float> rows;
      for (int i = 0; i < kBlockTokens * dim; i++)
        rows.push_back(source.value(i % 7 == 0 ? Values::tiny : Values::normal));
      for (const Kernels* level : runnable_kernels()) {
        std::vector<std::uint32_t> k(words + 1, 0xabcdabcd);
        std::vector<std::uint32_t> v(words + 1, 0xabcdabcd);
        for (int slot : {3, 0, 15, 1, 2, 4, 5, 6, 7, 8, 14, 13, 12, 11, 10, 9}) {
          EXPECT_TRUE(
              level->store_k(rows.data() + slot * dim, dim, format, reinterpret_cast<std::byte*>(k.data()), slot));
          EXPECT_TRUE(
              level->store_v(rows.data() + slot * dim, dim, format, reinterpret_cast<std::byte*>(v.data()), slot));
        }
        EXPECT_EQ(k.back(), 0xabcdabcd);
        EXPECT_EQ(v.back(), 0xabcdabcd);
        for (int slot = 0; slot < kBlockTokens; slot++) {
          for (int d = 0; d < dim; d++) {
            const float x = rows[static_cast<std::size_t>(slot * dim + d)];
            if (format == KvFormat::f32) {
              ASSERT_EQ(k[static_cast<std::size_t>(d * kBlockTokens + slot)], as_bits(x));
              ASSERT_EQ(v[static_cast<std::size_t>(slot * dim + d)], as_bits(x));
              continue;
            }
            const auto half = [](const std::vector<std::uint32_t>& part, int at) {
              return static_cast<std::uint16_t>(part[static_cast<std::size_t>(at / 2)] >> (at % 2 * 16));
            };
            ASSERT_EQ(half(k, (d / 2 * kBlockTokens + slot) * 2 + d % 2), to_bf16(x)) << level->name;
            ASSERT_EQ(half(v, (slot / 2 * dim + d) * 2 + slot % 2), to_bf16(x)) << level->name;
          }
        }
      }
    }
  }
}

// A value that only overflows when rounded counts as not finite, in its format.
TEST_F(Rows, WhatIsNotFiniteIsStoredAsZeros) {
  for (const Kernels* level : runnable_kernels()) {
    for (auto store : {level->store_k, level->store_v}) {
      for (float bad : {kNaN, kInfinity, -kInfinity, 0x1.fffffep127F}) {
        for (KvFormat format : {KvFormat::bf16, KvFormat::f32}) {
          const bool fits = std::isfinite(bad) && format == KvFormat::f32;
          std::vector<float> row(32, 1.0F);
          std::vector<std::uint32_t> part(512, 0);
          auto* bytes = reinterpret_cast<std::byte*>(part.data());
          EXPECT_TRUE(store(row.data(), 32, format, bytes, 5));
          for (float& value : row) {
            value = bad;
            EXPECT_EQ(store(row.data(), 32, format, bytes, 5), fits) << level->name;
            value = 1.0F;
            if (!fits) {
              EXPECT_EQ(part, std::vector<std::uint32_t>(512, 0)) << level->name;
            }
          }
        }
      }
    }
  }
}

TEST_F(Rows, Bf16IsNearestEvenWithoutDenormals) {
  const auto bits = [](std::uint32_t x) { return to_bf16(as_float(x)); };
  EXPECT_EQ(bits(0x3f808000), 0x3f80) << "a tie goes to the even one";
  EXPECT_EQ(bits(0x3f818000), 0x3f82);
  EXPECT_EQ(bits(0x3f808001), 0x3f81);
  EXPECT_EQ(bits(0x3f807fff), 0x3f80);
  EXPECT_EQ(bits(0x007fffff), 0x0000) << "a denormal is a zero, not rounded up to 2^-126";
  EXPECT_EQ(bits(0x807fffff), 0x8000);
  EXPECT_EQ(bits(0x7f7fffff), 0x7f80) << "overflow";
  EXPECT_EQ(bits(0x7f800001), 0x7fc0) << "a signalling NaN becomes a quiet one";
}

// The whole range that exp is used for; a step of 97 values keeps it short.
TEST_F(Rows, ExpAgreesAndIsAccurate) {
  constexpr int kCount = 4096;
  std::vector<float> x(kCount);
  std::vector<float> expected(kCount);
  std::vector<float> out(kCount);
  double worst = 0;
  for (std::uint32_t bits = 0x80000000; bits < 0xc2b20000;) {  // -0 .. -89
    for (float& value : x) {
      value = as_float(bits);
      bits += bits < 0xb0000000 ? 64997 : 997;
    }
    scalar::exp_sum(x.data(), kCount, 0, expected.data());
    for (const Kernels* level : runnable_kernels()) {
      level->exp_sum(x.data(), kCount, 0, out.data());
      ASSERT_TRUE(same(expected, out)) << level->name;
    }
    for (std::size_t i = 0; i < x.size(); i++) {
      if (x[i] < -87.0F) {
        ASSERT_EQ(as_bits(expected[i]), 0U) << x[i];
      } else {
        worst = std::max(worst, std::fabs(static_cast<double>(expected[i]) / std::exp(static_cast<double>(x[i])) - 1));
        ASSERT_GE(expected[i], 0x1p-126F);
      }
    }
  }
  EXPECT_LT(worst, 1.5e-7);
}

TEST_F(Rows, ExpIsExactWhereItMatters) {
  for (const Kernels* level : runnable_kernels()) {
    const float x[] = {0.0F, -0.0F, -1e-40F, -kInfinity, kNaN, -87.0F, std::nextafter(-87.0F, -88.0F)};
    float out[7];
    EXPECT_TRUE(std::isnan(level->exp_sum(x, 7, 0, out)));
    EXPECT_EQ(out[0], 1.0F);
    EXPECT_EQ(out[1], 1.0F);
    EXPECT_EQ(out[2], 1.0F);
    EXPECT_EQ(as_bits(out[3]), 0U);
    EXPECT_TRUE(std::isnan(out[4]));
    EXPECT_GT(out[5], 0.0F);
    EXPECT_EQ(as_bits(out[6]), 0U);
  }
}

// The plain formulas in double, so that a shared mistake shows.
TEST_F(Rows, ResultsAreWhatTheFormulasSay) {
  constexpr int kN = 96;
  Source source(9);
  std::vector<float> x(kN);
  std::vector<float> w(kN);
  for (float& value : x) value = source.value(Values::normal) * 3;
  for (float& value : w) value = source.value(Values::normal);
  std::vector<float> out(kN);
  scalar::rms_norm(x.data(), w.data(), kN, 1e-5F, out.data());
  double mean = 0;
  for (float value : x) mean += static_cast<double>(value) * static_cast<double>(value) / kN;
  for (std::size_t i = 0; i < kN; i++) {
    EXPECT_NEAR(out[i], static_cast<double>(x[i]) / std::sqrt(mean + 1e-5) * static_cast<double>(w[i]), 1e-6);
  }
  scalar::silu_mul(x.data(), w.data(), kN, out.data());
  for (std::size_t i = 0; i < kN; i++) {
    const double g = static_cast<double>(x[i]);
    EXPECT_NEAR(out[i], g / (1 + std::exp(-g)) * static_cast<double>(w[i]), 4e-6);
  }
  scalar::gelu_mul(x.data(), w.data(), kN, out.data());
  for (std::size_t i = 0; i < kN; i++) {
    const double g = static_cast<double>(x[i]);
    const double u = std::sqrt(2 / std::acos(-1.0)) * (g + 0.044715 * g * g * g);
    EXPECT_NEAR(out[i], 0.5 * g * (1 + std::tanh(u)) * static_cast<double>(w[i]), 4e-6);
  }
  for (bool interleaved : {false, true}) {
    std::vector<float> cos(kN / 2);
    std::vector<float> sin(kN / 2);
    for (std::size_t i = 0; i < kN / 2; i++) {
      cos[i] = std::cos(static_cast<float>(i));
      sin[i] = std::sin(static_cast<float>(i));
    }
    auto rotated = x;
    scalar::rope(rotated.data(), kN, cos.data(), sin.data(), interleaved);
    for (std::size_t i = 0; i < kN / 2; i++) {
      const std::size_t a = interleaved ? 2 * i : i;
      const std::size_t b = interleaved ? 2 * i + 1 : i + kN / 2;
      EXPECT_NEAR(rotated[a], x[a] * cos[i] - x[b] * sin[i], 2e-6);
      EXPECT_NEAR(rotated[b], x[a] * sin[i] + x[b] * cos[i], 2e-6);
    }
  }
}

// The order of the sum is the contract's, not the CPU's: lane j owns x[j], x[j+16], ...
TEST_F(Rows, SumsUseSixteenLanesFoldedByHalves) {
  std::vector<float> x(53);
  Source source(11);
  for (float& value : x) value = -std::fabs(source.value(Values::normal));
  std::vector<float> e(x.size());
  const float sum = scalar::exp_sum(x.data(), 53, 0, e.data());
  float lanes[16] = {};
  for (std::size_t i = 0; i < e.size(); i++) lanes[i % 16] += e[i];
  for (std::size_t half : {8, 4, 2, 1}) {
    for (std::size_t j = 0; j < half; j++) lanes[j] += lanes[j + half];
  }
  EXPECT_EQ(as_bits(sum), as_bits(lanes[0]));
}

}  // namespace
}  // namespace dalsegno
