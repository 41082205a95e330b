#include "kernels/kv_codes.hpp"

#include "kernels/lanes_scalar.hpp"
#include "kernels/levels.hpp"

namespace dalsegno::scalar {
namespace {

// Adding it leaves no fraction bits: the sum is rounded to an integer, nearest even, for |x| < 2^22.
constexpr float kRounder = 0x1.8p23F;

struct Level {
  struct Values {
    float lane[kLanes];
  };
  template <class Body>
  static Values each(const Body& body) {
    Values out;
    for (int i = 0; i < kLanes; i++) out.lane[i] = body(i);
    return out;
  }
  static Values load(const float* x) {
    return each([&](int i) { return x[i]; });
  }
  static void put(float* x, const Values& a) { std::memcpy(x, a.lane, sizeof a.lane); }
  static Values fill(float x) {
    return each([&](int) { return x; });
  }
  static Values add(const Values& a, const Values& b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static Values subtract(const Values& a, const Values& b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  template <int kBy>
  static Values butterfly(const Values& a) {
    return each([&](int i) { return (i & kBy) == 0 ? a.lane[i] + a.lane[i ^ kBy] : a.lane[i ^ kBy] - a.lane[i]; });
  }
  static bool round(const float* x, float* out) {
    bool fits = true;
    for (int i = 0; i < kLanes; i++) {
      const std::uint16_t rounded = to_bf16(x[i]);
      fits &= (rounded & 0x7f00) != 0x7f00;
      out[i] = from_bf16(rounded);
    }
    return fits;
  }
  static Values magnitude(const Values& a) {
    return each([&](int i) { return __builtin_fabsf(a.lane[i]); });
  }
  static Values largest(const Values& a, const Values& b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Values smallest(const Values& a, const Values& b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static float fold_largest(const Values& a) {
    float most = a.lane[0];
    for (float x : a.lane) most = x > most ? x : most;
    return most;
  }
  static float fold_smallest(const Values& a) {
    float least = a.lane[0];
    for (float x : a.lane) least = x < least ? x : least;
    return least;
  }
  static void codes(const Values& a, float minimum, float scale, std::uint8_t* out) {
    for (int i = 0; i < kLanes; i++) {
      out[i] = static_cast<std::uint8_t>(as_bits((a.lane[i] - minimum) / scale + kRounder) - as_bits(kRounder));
    }
  }
  static Values bytes(const std::uint8_t* p) {
    return each([&](int i) { return static_cast<float>(static_cast<std::int8_t>(p[i])); });
  }
  static void nibbles(const std::uint8_t* p, Values& low, Values& high) {
    low = each([&](int i) { return static_cast<float>(p[i] & 15); });
    high = each([&](int i) { return static_cast<float>(p[i] >> 4); });
  }
  static Values tokens(const std::uint16_t* p) {
    return each([&](int i) { return from_bf16(p[i / 2]); });
  }
  static Values pair(const std::uint16_t* p) {
    return each([&](int i) { return from_bf16(p[i % 2]); });
  }
  static Values multiply(const Values& a, const Values& b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static Values multiply_add(const Values& a, const Values& b, const Values& c) {
    // Four bits by eight and a term of eight are a sum whose rounding double cannot spoil.
    return each([&](int i) {
      return static_cast<float>(static_cast<double>(a.lane[i]) * static_cast<double>(b.lane[i]) +
                                static_cast<double>(c.lane[i]));
    });
  }
  static void store(const Values& low, const Values& high, std::uint16_t* out) {
    for (int i = 0; i < kLanes; i++) {
      out[i] = to_bf16(low.lane[i]);
      out[i + kLanes] = to_bf16(high.lane[i]);
    }
  }
};

}  // namespace

DALSEGNO_KV_CODES

}  // namespace dalsegno::scalar
