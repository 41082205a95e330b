#include "base/math.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace dalsegno {
namespace {

// libm in long double (64-bit significand) stands for the true value.
long double relative(double value, long double truth) {
  return truth == 0 ? std::fabs(static_cast<long double>(value)) : std::fabs((value - truth) / truth);
}

TEST(Math, ExpIsAccurate) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> wide(-700, 700);
  std::uniform_real_distribution<double> narrow(-1, 1);
  for (int i = 0; i < 200000; i++) {
    const double x = i % 2 == 0 ? wide(random) : narrow(random);
    ASSERT_LT(relative(exact_exp(x), std::exp(static_cast<long double>(x))), 4e-16L) << x;
  }
  EXPECT_EQ(exact_exp(0), 1);
}

TEST(Math, LogIsAccurateAlsoNearOne) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> exponent(-700, 700);
  std::uniform_real_distribution<double> offset(-1, 1);
  for (int i = 0; i < 200000; i++) {
    const double x = i % 2 == 0 ? std::exp(exponent(random)) : 1 + offset(random) * std::ldexp(1.0, -(i % 50) - 1);
    ASSERT_LT(relative(exact_log(x), std::log(static_cast<long double>(x))), 4e-16L) << x;
  }
  EXPECT_EQ(exact_log(1), 0);
}

TEST(Math, SineAndCosineAreAccurate) {
  std::mt19937_64 random(3);
  for (double range : {0.5, 2.0, 1e3, 1e6, 0x1p30}) {
    std::uniform_real_distribution<double> within(-range, range);
    for (int i = 0; i < 60000; i++) {
      const double x = within(random);
      ASSERT_LT(std::fabs(exact_sin(x) - std::sin(static_cast<long double>(x))), 2e-16L) << x;
      ASSERT_LT(std::fabs(exact_cos(x) - std::cos(static_cast<long double>(x))), 2e-16L) << x;
    }
  }
  EXPECT_EQ(exact_sin(0), 0);
  EXPECT_EQ(exact_cos(0), 1);
}

// The worst arguments are those next to a multiple of pi / 2, where high bits cancel.
TEST(Math, SineAndCosineAreAccurateNearQuarterTurns) {
  for (int n = 0; n < 200000; n++) {
    const double x = static_cast<double>(static_cast<long double>(n) * 3000 * 1.57079632679489661923L);
    ASSERT_LT(std::fabs(exact_sin(x) - std::sin(static_cast<long double>(x))), 2e-16L) << x;
    ASSERT_LT(std::fabs(exact_cos(x) - std::cos(static_cast<long double>(x))), 2e-16L) << x;
  }
}

TEST(Math, PowIsExpOfLog) {
  for (double base : {10000.0, 500000.0, 1000000.0, 0.5}) {
    for (double exponent = -1; exponent <= 1; exponent += 1.0 / 64) {
      ASSERT_LT(relative(exact_pow(base, exponent), std::pow(static_cast<long double>(base), exponent)), 4e-15L);
    }
  }
}

// Bits of a few values: a compiler or libc that changes one breaks the promise of equal bits.
TEST(Math, BitsAreFixed) {
  EXPECT_EQ(exact_exp(-1), 0x1.78b56362cef38p-2);
  EXPECT_EQ(exact_log(10), 0x1.26bb1bbb55516p+1);
  EXPECT_EQ(exact_sin(1), 0x1.aed548f090ceep-1);
  EXPECT_EQ(exact_cos(1000), 0x1.1ff026793f1bcp-1);
  EXPECT_EQ(exact_pow(10000, -0.25), 0x1.9999999999998p-4);
}

TEST(Math, TheSumOfExponentialsHasTheBitsOfItsTerms) {
  std::vector<float> values;
  for (int i = 0; i < 5000; ++i) values.push_back(static_cast<float>(-0.37 * i));
  double sum = 0;
  for (const float value : values) {
    if (value - 1.5 > -700.0) sum += exact_exp(value - 1.5);
  }
  EXPECT_EQ(exact_exp_sum(values, 1.5), sum);
}

}  // namespace
}  // namespace dalsegno
