#include "base/math.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>

namespace dalsegno {
namespace {

// std::fma is correctly rounded in every libc, so it is the one library function used here.

double as_double(std::uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::uint64_t as_bits(double value) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Adding 1.5 * 2^52 leaves the nearest integer (ties to even) in the low bits of the sum.
constexpr double kToInteger = 6755399441055744.0;

constexpr double kLn2High = 0x1.62e42fefa39efp-1;
constexpr double kLn2Low = 0x1.abc9e3b39803fp-56;  // ln 2 - kLn2High

constexpr double kHalfPi = 0x1.921fb54442d18p0;
constexpr double kHalfPiLow = 0x1.1a62633145c07p-54;  // pi / 2 - kHalfPi

template <int count>
[[gnu::always_inline]] inline double horner(const double (&coefficients)[count], double x) {
  double p = coefficients[0];
  for (int i = 1; i < count; i++) p = std::fma(p, x, coefficients[i]);
  return p;
}

// x = quarters * (pi / 2) + high + low, |high| <= pi / 4.
struct Reduced {
  std::uint64_t quarters;
  double high;
  double low;
};

Reduced reduce(double x) {
  const double shifted = x * 0x1.45f306dc9c883p-1 + kToInteger;
  const double n = shifted - kToInteger;
  const double r = std::fma(-n, kHalfPi, x);  // exact: at most 30 + 53 bits, of which the top 30 cancel
  const double high = std::fma(-n, kHalfPiLow, r);
  const double low = std::fma(-n, kHalfPiLow, r - high);
  return {as_bits(shifted), high, low};
}

// Taylor series: the first term left out is below 2^-60 for |x| <= pi / 4.
double sine(double x, double low) {
  static constexpr double kTerms[] = {1 / 355687428096000.0, -1 / 1307674368000.0, 1 / 6227020800.0, -1 / 39916800.0,
                                      1 / 362880.0,          -1 / 5040.0,          1 / 120.0,        -1 / 6.0};
  const double square = x * x;
  return x + std::fma(square * x, horner(kTerms, square), low * (1 - 0.5 * square));
}

double cosine(double x, double low) {
  static constexpr double kTerms[] = {
      -1 / 6402373705728000.0, 1 / 20922789888000.0, -1 / 87178291200.0, 1 / 479001600.0,
      -1 / 3628800.0,          1 / 40320.0,          -1 / 720.0,         1 / 24.0};
  const double square = x * x;
  const double half = 0.5 * square;
  const double leading = 1 - half;
  const double lost = (1 - leading) - half;
  return leading + (lost + std::fma(square * square, horner(kTerms, square), -x * low));
}

[[gnu::always_inline]] inline double exp_of(double x) {
  // 1/13!, 1/12!, ..., 1/2!: the next term is below 2^-57 for |r| <= ln(2) / 2.
  static constexpr double kTerms[] = {1 / 6227020800.0, 1 / 479001600.0, 1 / 39916800.0, 1 / 3628800.0,
                                      1 / 362880.0,     1 / 40320.0,     1 / 5040.0,     1 / 720.0,
                                      1 / 120.0,        1 / 24.0,        1 / 6.0,        0.5};
  const double shifted = x * 0x1.71547652b82fep0 + kToInteger;
  const double n = shifted - kToInteger;
  const double high = std::fma(-n, kLn2High, x);
  const double r = std::fma(-n, kLn2Low, high);
  const double power = 1 + std::fma(r * r, horner(kTerms, r), r);
  return power * as_double((as_bits(shifted) + 1023) << 52);
}

[[gnu::always_inline]] inline double sum_of_exp(std::span<const float> values, double shift) {
  double sum = 0;
  for (const float value : values) {
    const double x = static_cast<double>(value) - shift;
    if (x > -700.0) sum += exp_of(x);
  }
  return sum;
}

#if defined(__x86_64__)
// The same rounding by the instruction: a library call per fma makes the sum of a vocabulary 20 times slower.
[[gnu::target("fma")]] double sum_of_exp_by_instruction(std::span<const float> values, double shift) {
  return sum_of_exp(values, shift);
}
#endif

}  // namespace

double exact_exp(double x) {
  return exp_of(x);
}

double exact_exp_sum(std::span<const float> values, double shift) {
#if defined(__x86_64__)
  static const bool by_instruction = __builtin_cpu_supports("fma") != 0;
  if (by_instruction) return sum_of_exp_by_instruction(values, shift);
#endif
  return sum_of_exp(values, shift);
}

double exact_log(double x) {
  // log(1 + f) with s = f / (2 + f): f - f^2/2 + s * (f^2/2 + s^2 * (2/3 + s^2 * (2/5 + ...))).
  static constexpr double kTerms[] = {2 / 23.0, 2 / 21.0, 2 / 19.0, 2 / 17.0, 2 / 15.0, 2 / 13.0,
                                      2 / 11.0, 2 / 9.0,  2 / 7.0,  2 / 5.0,  2 / 3.0};
  constexpr std::uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  const std::uint64_t bits = as_bits(x);
  const std::uint64_t above = (bits - kSqrtHalf) >> 52;  // the exponent, modulo 2^12
  const double n = static_cast<double>(static_cast<std::int64_t>(above << 52) >> 52);
  const double f = as_double(bits - (above << 52)) - 1;  // sqrt(1/2) - 1 <= f < sqrt(2) - 1, exact
  const double s = f / (2 + f);
  const double square = s * s;
  const double half = 0.5 * f * f;
  const double rest = s * std::fma(square, horner(kTerms, square), half);
  return std::fma(n, kLn2High, f - (half - std::fma(n, kLn2Low, rest)));
}

double exact_pow(double base, double exponent) {
  return exact_exp(exponent * exact_log(base));
}

double exact_sin(double x) {
  const Reduced r = reduce(x);
  const double value = (r.quarters & 1) != 0 ? cosine(r.high, r.low) : sine(r.high, r.low);
  return (r.quarters & 2) != 0 ? -value : value;
}

double exact_cos(double x) {
  const Reduced r = reduce(x);
  const double value = (r.quarters & 1) != 0 ? sine(r.high, r.low) : cosine(r.high, r.low);
  return ((r.quarters + 1) & 2) != 0 ? -value : value;
}

}  // namespace dalsegno
