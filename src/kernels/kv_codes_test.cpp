// K and V in codes of 8 and 4 bits: scalar against the contract written plainly, every level against scalar.
#include <gtest/gtest.h>

#include <algorithm>
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

using Bytes = std::vector<std::byte>;

struct Case {
  KvFormat format;
  int head_dim;
  int group;
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const KvFormat format : {KvFormat::q8, KvFormat::q4}) {
    for (int dim = 16; dim <= kMaxHeadDim; dim += 16) {
      for (const int group : {0, 32, 64, 128}) cases.push_back({format, dim, group});
    }
  }
  return cases;
}

float rounded(float x) {
  std::uint16_t half = 0;
  scalar::store_q(&x, 1, KvFormat::bf16, &half);
  const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Values of one token's head, some of them extreme.
std::vector<float> row(std::mt19937& random, int dim, int kind) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(dim));
  for (float& value : x) value = normal(random);
  const auto one = [&]() -> float& { return x[random() % x.size()]; };
  const auto each = [&](const auto& change) { std::for_each(x.begin(), x.end(), change); };
  if (kind == 1) one() = 1000;                                     // an outlier
  if (kind == 2) each([](float& v) { v = -0.0F; });                // nothing
  if (kind == 3) each([](float& v) { v = 3.5F; });                 // no range
  if (kind == 4) each([](float& v) { v = std::ldexp(v, -126); });  // scales next to 2^-126, and below
  if (kind == 5) each([](float& v) { v = std::ldexp(v, -121); });
  if (kind == 6) each([](float& v) { v = std::ldexp(std::tanh(v), 127) * 0.99F; });  // as large as can be
  if (kind == 7) each([&](float& v) { v = std::ldexp(v, static_cast<int>(random() % 200) - 120); });
  if (kind == 8) each([&](float& v) { v = static_cast<float>(static_cast<int>(random() % 31) - 15) * 0.5F; });  // ties
  return x;
}
constexpr int kKinds = 9;

Bytes filled_part(const Kernels& level, const KvCodes& codes, KvPart kind, unsigned seed) {
  std::mt19937 random(seed);
  Bytes part(codes.bytes);
  for (int slot = 0; slot < kBlockTokens; ++slot) {
    const std::vector<float> x = row(random, codes.head_dim, static_cast<int>(random() % kKinds));
    EXPECT_TRUE(level.store_codes(x.data(), codes, kind, part.data(), slot));
  }
  return part;
}

std::vector<std::uint16_t> loaded(const Kernels& level, const KvCodes& codes, KvPart kind, const Bytes& part) {
  std::vector<std::uint16_t> out(static_cast<std::size_t>(kBlockTokens * codes.head_dim));
  level.load_codes(part.data(), codes, kind, nullptr, reinterpret_cast<std::byte*>(out.data()));
  return out;
}

// The contract, one value at a time: what comes back of x[d].
float specified(const std::vector<float>& x, const KvCodes& codes, int d) {
  const int begin = d / codes.group * codes.group;
  const int end = std::min(begin + codes.group, codes.head_dim);
  float least = std::numeric_limits<float>::infinity();
  float most = -least;
  float magnitude = 0;
  for (int i = begin; i < end; ++i) {
    const float value = rounded(x[static_cast<std::size_t>(i)]);
    least = std::min(least, value);
    most = std::max(most, value);
    magnitude = std::max(magnitude, std::fabs(value));
  }
  least = least + 0.0F;
  const float value = rounded(x[static_cast<std::size_t>(d)]);
  const float scale = rounded(codes.bits == 8 ? magnitude / 127.0F : (most - least) / 15.0F);
  if (codes.bits == 8) {
    const float code = scale > 0 ? std::nearbyint(value / scale) : 0;
    EXPECT_LE(std::fabs(code), 127);
    return rounded(code * scale);
  }
  const float code = scale > 0 ? std::nearbyint((value - least) / scale) : 0;
  EXPECT_LE(code, 15);
  return rounded(std::fma(code, scale, least));
}

float value_at(const std::vector<std::uint16_t>& part, KvPart kind, int head_dim, int slot, int d) {
  const int at =
      kind == KvPart::keys ? (d / 2 * kBlockTokens + slot) * 2 + d % 2 : (slot / 2 * head_dim + d) * 2 + slot % 2;
  const std::uint32_t bits = static_cast<std::uint32_t>(part[static_cast<std::size_t>(at)]) << 16;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

class KvCodesTest : public ::testing::Test {
 protected:
  FloatState state_;
};

TEST_F(KvCodesTest, ScalarIsTheSpecification) {
  std::mt19937 random(1);
  const Kernels& level = *runnable_kernels().front();
  for (const Case& each : all_cases()) {
    const KvCodes codes = kv_codes(each.format, each.head_dim, each.group);
    for (const KvPart kind : {KvPart::keys, KvPart::values}) {
      Bytes part(codes.bytes);
      std::vector<std::vector<float>> rows;
      for (int slot = 0; slot < kBlockTokens; ++slot) {
        rows.push_back(row(random, each.head_dim, slot % kKinds));
        ASSERT_TRUE(level.store_codes(rows.back().data(), codes, kind, part.data(), slot));
      }
      const auto values = loaded(level, codes, kind, part);
      for (int slot = 0; slot < kBlockTokens; ++slot) {
        for (int d = 0; d < each.head_dim; ++d) {
          const float expected = specified(rows[static_cast<std::size_t>(slot)], codes, d);
          ASSERT_EQ(value_at(values, kind, each.head_dim, slot, d), expected)
              << codes.bits << " bits, head " << each.head_dim << ", group " << codes.group << ", slot " << slot
              << ", dim " << d;
        }
      }
    }
  }
}

TEST_F(KvCodesTest, EveryLevelStoresAndLoadsTheSameBytes) {
  unsigned seed = 0;
  for (const Case& each : all_cases()) {
    const KvCodes codes = kv_codes(each.format, each.head_dim, each.group);
    for (const KvPart kind : {KvPart::keys, KvPart::values}) {
      const Bytes expected = filled_part(*runnable_kernels().front(), codes, kind, ++seed);
      const auto values = loaded(*runnable_kernels().front(), codes, kind, expected);
      for (const Kernels* level : runnable_kernels()) {
        ASSERT_EQ(filled_part(*level, codes, kind, seed), expected) << level->name << " " << each.head_dim;
        ASSERT_EQ(loaded(*level, codes, kind, expected), values) << level->name << " " << each.head_dim;
      }
    }
  }
}

TEST_F(KvCodesTest, AnyOrderOfTokensGivesTheSameBytesAndOthersAreNotTouched) {
  for (const KvFormat format : {KvFormat::q8, KvFormat::q4}) {
    for (const KvPart kind : {KvPart::keys, KvPart::values}) {
      const KvCodes codes = kv_codes(format, 48, 32);
      for (const Kernels* level : runnable_kernels()) {
        std::mt19937 random(5);
        std::vector<std::vector<float>> rows;
        for (int slot = 0; slot < kBlockTokens; ++slot) rows.push_back(row(random, 48, 0));
        Bytes forwards(codes.bytes);
        Bytes backwards(codes.bytes, std::byte{0x3f});
        for (int slot = 0; slot < kBlockTokens; ++slot) {
          const int other = kBlockTokens - 1 - slot;
          level->store_codes(rows[static_cast<std::size_t>(slot)].data(), codes, kind, forwards.data(), slot);
          level->store_codes(rows[static_cast<std::size_t>(other)].data(), codes, kind, backwards.data(), other);
        }
        EXPECT_EQ(forwards, backwards) << level->name;
      }
    }
  }
}

TEST_F(KvCodesTest, WhatDoesNotFitIsStoredAsZeros) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(), 0x1p127F, -0x1.ffp126F};
  for (const Case& each : all_cases()) {
    const KvCodes codes = kv_codes(each.format, each.head_dim, each.group);
    for (const Kernels* level : runnable_kernels()) {
      for (const float value : bad) {
        std::vector<float> x(static_cast<std::size_t>(each.head_dim), 1.0F);
        x[static_cast<std::size_t>(each.head_dim) / 2] = value;
        Bytes part(codes.bytes, std::byte{0x11});
        ASSERT_FALSE(level->store_codes(x.data(), codes, KvPart::keys, part.data(), 3)) << level->name;
        const auto values = loaded(*level, codes, KvPart::keys, part);
        for (int d = 0; d < each.head_dim; ++d) {
          ASSERT_EQ(value_at(values, KvPart::keys, each.head_dim, 3, d), 0.0F) << level->name;
        }
      }
      std::vector<float> largest(static_cast<std::size_t>(each.head_dim), 0x1.fdp126F);
      largest[0] = -largest[0];
      Bytes part(codes.bytes);
      ASSERT_TRUE(level->store_codes(largest.data(), codes, KvPart::values, part.data(), 15)) << level->name;
      for (const std::uint16_t half : loaded(*level, codes, KvPart::values, part)) ASSERT_NE(half & 0x7f80, 0x7f80);
    }
  }
}

TEST_F(KvCodesTest, TheTransformIsThatOfHadamardStageByStage) {
  std::mt19937 random(11);
  for (int n = 16; n <= kMaxHeadDim; n += 16) {
    for (int kind = 0; kind < kKinds; ++kind) {
      if (kind == 6) continue;  // its sums overflow, and the bits of a NaN are not promised
      for (const float factor : {1.0F, 1.0F / static_cast<float>(hadamard_size(n))}) {
        const std::vector<float> x = row(random, n, kind);
        std::vector<float> expected = x;
        for (int half = 1; half < hadamard_size(n); half *= 2) {
          const std::vector<float> before = expected;
          for (int i = 0; i < n; ++i) {
            const float other = before[static_cast<std::size_t>(i ^ half)];
            const float own = before[static_cast<std::size_t>(i)];
            expected[static_cast<std::size_t>(i)] = (i & half) == 0 ? own + other : other - own;
          }
        }
        for (float& value : expected) value = value * factor;
        for (const Kernels* level : runnable_kernels()) {
          std::vector<float> out = x;
          level->hadamard(out.data(), n, factor);
          ASSERT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0)
              << level->name << " " << n << " " << kind;
        }
      }
    }
  }
}

TEST_F(KvCodesTest, TransformedTwiceIsTheSameAgain) {
  for (const int n : {16, 48, 64, 80, 256}) {
    std::mt19937 random(12);
    const std::vector<float> x = row(random, n, 0);
    for (const Kernels* level : runnable_kernels()) {
      std::vector<float> out = x;
      level->hadamard(out.data(), n, 1.0F);
      level->hadamard(out.data(), n, 1.0F / static_cast<float>(hadamard_size(n)));
      for (int d = 0; d < n; ++d) ASSERT_NEAR(out[static_cast<std::size_t>(d)], x[static_cast<std::size_t>(d)], 1e-5F);
    }
  }
}

// Attention over pages of codes is attention over the same values in bf16.
TEST_F(KvCodesTest, AttendingToCodesIsAttendingToTheirValues) {
  constexpr int kKeys = 250;
  constexpr int kBlocks = (kKeys + kBlockTokens - 1) / kBlockTokens;
  for (const int dim : {16, 64, 80, 256}) {
    for (const KvFormat format : {KvFormat::q8, KvFormat::q4}) {
      const KvCodes codes = kv_codes(format, dim, dim == 64 ? 64 : 32);
      const std::size_t plain_part = kv_part_bytes(KvFormat::bf16, dim, 0);
      std::vector<Bytes> coded(kBlocks, Bytes(2 * codes.bytes));
      std::vector<Bytes> plain(kBlocks, Bytes(2 * plain_part));
      std::vector<std::byte*> coded_pages;
      std::vector<std::byte*> plain_pages;
      std::mt19937 random(7);
      for (std::size_t b = 0; b < kBlocks; ++b) {
        for (const KvPart kind : {KvPart::keys, KvPart::values}) {
          std::byte* part = coded[b].data() + (kind == KvPart::keys ? 0 : codes.bytes);
          for (int slot = 0; slot < kBlockTokens; ++slot) {
            scalar::store_codes(row(random, dim, 0).data(), codes, kind, part, slot);
          }
          scalar::load_codes(part, codes, kind, nullptr, plain[b].data() + (kind == KvPart::keys ? 0 : plain_part));
        }
        coded_pages.push_back(b == 2 ? nullptr : coded[b].data());  // hidden from every row
        plain_pages.push_back(b == 2 ? nullptr : plain[b].data());
      }
      for (const int rows : {1, 2, 3, 4, 5, 6, 7, 20}) {
        const int hidden = 16 * (rows % 4);  // the last tile has one to four blocks
        const auto count = static_cast<std::size_t>(rows);
        std::vector<std::uint16_t> q(count * static_cast<std::size_t>(dim));
        const std::vector<float> wide = row(random, rows * dim, 0);
        scalar::store_q(wide.data(), rows * dim, KvFormat::bf16, q.data());
        std::vector<std::int32_t> begin;
        std::vector<std::int32_t> end;
        for (int i = 0; i < rows; ++i) {
          begin.push_back(i % 3 == 0 ? 50 : 48 + 10 * i);
          end.push_back(i % 4 == 3 ? 60 : kKeys - hidden - i);
        }
        for (const Kernels* level : runnable_kernels()) {
          alignas(64) static float o[2][20][kMaxHeadDim];
          alignas(64) static std::byte tile[4 * 2 * 2 * kBlockTokens * kMaxHeadDim];
          AttentionState states[2][20];
          AttentionArgs args{.head_dim = dim,
                             .pages = plain_pages.data(),
                             .page_count = kBlocks,
                             .v_offset = plain_part,
                             .q = q.data(),
                             .q_stride = static_cast<std::size_t>(dim),
                             .rows = rows,
                             .begin = begin.data(),
                             .end = end.data(),
                             .scale = 0.125F};
          for (int way = 0; way < 2; ++way) {
            for (int i = 0; i < rows; ++i) states[way][i].o = o[way][i];
            args.out = states[way];
            level->attend(args);
            args.pages = coded_pages.data();
            args.v_offset = codes.bytes;
            args.codes = &codes;
            args.loaded = tile;
          }
          for (int i = 0; i < rows; ++i) {
            ASSERT_EQ(states[0][i].m, states[1][i].m) << level->name;
            ASSERT_EQ(states[0][i].l, states[1][i].l) << level->name;
            ASSERT_EQ(std::memcmp(o[0][i], o[1][i], static_cast<std::size_t>(dim) * sizeof(float)), 0) << level->name;
          }
        }
      }
    }
  }
}

// A part whose first token has these codes, as far as it takes any, and this scale and minimum.
Bytes part_of_one_token(const KvCodes& codes, KvPart kind, int first_code, std::uint16_t scale, std::uint16_t minimum) {
  Bytes part(codes.bytes);
  for (int d = 0; d < codes.head_dim; ++d) {
    const auto code = static_cast<unsigned>(first_code + d);
    if (codes.bits == 8) {
      const int at = kind == KvPart::keys ? d / 2 * kBlockTokens * 2 + d % 2 : 2 * d;
      part[static_cast<std::size_t>(at)] = static_cast<std::byte>(code);
    } else {
      const int in = kind == KvPart::keys ? 4 : 16;  // dims whose codes lie together
      const int at = kind == KvPart::keys ? d / in * kBlockTokens * 2 + d % 2 : d / in * in + d % 8 * 2;
      part[static_cast<std::size_t>(at)] |= static_cast<std::byte>((code & 15) << (d % in < in / 2 ? 0 : 4));
    }
  }
  std::memcpy(part.data() + codes.scale_offset, &scale, sizeof scale);
  if (codes.bits == 4) std::memcpy(part.data() + codes.minimum_offset, &minimum, sizeof minimum);
  return part;
}

// A key seen alone has its own score, a value seen alone is the output: every code under every mantissa of a scale.
TEST_F(KvCodesTest, AttentionDecodesEveryCodeAsLoadingDoes) {
  constexpr int kDim = 64;
  std::vector<std::uint16_t> q(static_cast<std::size_t>(kDim) * kDim);
  for (std::size_t d = 0; d < kDim; ++d) q[d * kDim + d] = 0x3f80;
  const std::vector<std::int32_t> begin(kDim, 0);
  const std::vector<std::int32_t> end(kDim, 1);
  alignas(64) static float o[kDim][kDim];
  alignas(64) static std::byte tile[4 * 2 * 2 * kBlockTokens * kMaxHeadDim];
  const auto check = [&](const KvCodes& codes, int first_code, std::uint16_t scale, std::uint16_t minimum,
                         bool all_rows) {
    Bytes page = part_of_one_token(codes, KvPart::keys, first_code, scale, minimum);
    const Bytes values = part_of_one_token(codes, KvPart::values, first_code, scale, minimum);
    const std::vector<std::uint16_t> keys = loaded(*runnable_kernels().front(), codes, KvPart::keys, page);
    page.insert(page.end(), values.begin(), values.end());
    std::byte* pages = page.data();
    AttentionState states[kDim];
    for (std::size_t i = 0; i < kDim; ++i) states[i].o = o[i];
    const AttentionArgs args{.head_dim = kDim,
                             .pages = &pages,
                             .page_count = 1,
                             .v_offset = codes.bytes,
                             .q = q.data(),
                             .q_stride = kDim,
                             .rows = all_rows ? kDim : 1,  // row d sees element d of the key
                             .begin = begin.data(),
                             .end = end.data(),
                             .scale = 1.0F,
                             .out = states,
                             .codes = &codes,
                             .loaded = tile};
    for (const Kernels* level : runnable_kernels()) {
      level->attend(args);
      for (int d = 0; d < kDim; ++d) {
        const float expected = value_at(keys, KvPart::keys, kDim, 0, d);
        if (d < args.rows) {
          ASSERT_EQ(states[d].m, expected) << level->name << ' ' << first_code + d << ' ' << scale << ' ' << minimum;
        }
        ASSERT_EQ(o[0][d], expected) << level->name << ' ' << first_code + d << ' ' << scale << ' ' << minimum;
      }
    }
  };
  const auto bf16 = [](int exponent, int mantissa) {
    return static_cast<std::uint16_t>((exponent + 127) << 7 | mantissa);
  };
  for (const int exponent : {-126, -120, -65, -64, -3, 0, 63, 64, 65, 119}) {
    for (int mantissa = 0; mantissa < 128; ++mantissa) {
      const std::uint16_t scale = bf16(exponent, mantissa);
      for (int code = -128; code < 128; code += kDim) {
        check(kv_codes(KvFormat::q8, kDim, 0), code, scale, 0, exponent == 0);
      }
      for (const int above : {-9, -1, 0, 1, 2, 3, 4, 9}) {  // of the minimum
        if (exponent + above < -126 || exponent + above > 122) continue;
        const auto minimum = static_cast<std::uint16_t>(bf16(exponent + above, mantissa * 37 % 128) | 0x8000);
        check(kv_codes(KvFormat::q4, kDim, 0), 0, scale, minimum, exponent == 0);
      }
      check(kv_codes(KvFormat::q4, kDim, 0), 0, scale, bf16(exponent, mantissa * 11 % 128), false);
      check(kv_codes(KvFormat::q4, kDim, 0), 0, scale, 0, false);
    }
  }
}

}  // namespace
}  // namespace dalsegno
