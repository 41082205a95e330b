#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "base/float_state.hpp"
#include "kernels/attention_test_support.hpp"
#include "kernels/kernels.hpp"
#include "kernels/levels.hpp"
#include "kernels/self_check.hpp"

namespace dalsegno {
namespace {

struct Row {
  std::int32_t begin;
  std::int32_t end;
  std::int32_t kept_begin = 0;  // seen too: [kept_begin, kept_end)
  std::int32_t kept_end = 0;
  [[nodiscard]] bool sees(int key) const {
    return (key >= begin && key < end) || (key >= kept_begin && key < kept_end);
  }
};

constexpr int kAllRows = 1 << 20;

// Attention of all rows, at most `rows_per_call` of them at a time. q: [rows, head_dim].
std::vector<float> attend(const Kernels& level, const Sequence& sequence, const std::vector<float>& q,
                          const std::vector<Row>& rows, int rows_per_call = kAllRows, bool large_l1 = false) {
  const KvLayout& layout = sequence.layout();
  const int dim = layout.head_dim;
  const int stride = dim + 16;
  const int count = static_cast<int>(rows.size());
  std::vector<float> stored(static_cast<std::size_t>(count * stride));
  std::vector<std::int32_t> begin;
  std::vector<std::int32_t> end;
  std::vector<std::int32_t> kept_begin;
  std::vector<std::int32_t> kept_end;
  const Floats o = aligned_floats(static_cast<std::size_t>(2 * count * dim));
  std::vector<AttentionState> total(rows.size());
  std::vector<AttentionState> part(rows.size());
  for (int i = 0; i < count; i++) {
    auto* row = reinterpret_cast<std::byte*>(stored.data()) +
                static_cast<std::size_t>(i * stride) * element_bytes(layout.format);
    scalar::store_q(q.data() + i * dim, dim, layout.format, row);
    begin.push_back(rows[static_cast<std::size_t>(i)].begin);
    end.push_back(rows[static_cast<std::size_t>(i)].end);
    kept_begin.push_back(rows[static_cast<std::size_t>(i)].kept_begin);
    kept_end.push_back(rows[static_cast<std::size_t>(i)].kept_end);
    total[static_cast<std::size_t>(i)] = {-kInfinity, 0, o.get() + i * dim};
    part[static_cast<std::size_t>(i)].o = o.get() + (count + i) * dim;
  }
  const int last = *std::max_element(end.begin(), end.end());
  const bool any_kept = *std::max_element(kept_end.begin(), kept_end.end()) > 0;
  for (int chunk = 0; chunk * kChunkKeys < last; chunk++) {
    for (int row = 0; row < count; row += rows_per_call) {
      level.attend({.format = layout.format,
                    .head_dim = dim,
                    .pages = sequence.pages(),
                    .page_count = (last + kBlockTokens - 1) / kBlockTokens,
                    .k_offset = sequence.k_offset(),
                    .v_offset = sequence.v_offset(),
                    .q = reinterpret_cast<std::byte*>(stored.data()) +
                         static_cast<std::size_t>(row * stride) * element_bytes(layout.format),
                    .q_stride = static_cast<std::size_t>(stride),
                    .rows = std::min(rows_per_call, count - row),
                    .begin = begin.data() + row,
                    .end = end.data() + row,
                    .kept_begin = any_kept ? kept_begin.data() + row : nullptr,
                    .kept_end = any_kept ? kept_end.data() + row : nullptr,
                    .chunk = chunk,
                    .scale = sequence.scale(),
                    .out = part.data() + row,
                    .large_l1 = large_l1});
    }
    for (std::size_t i = 0; i < rows.size(); i++) level.merge(total[i], part[i], dim);
  }
  std::vector<float> out(static_cast<std::size_t>(count * dim));
  for (int i = 0; i < count; i++) level.finish(total[static_cast<std::size_t>(i)], dim, out.data() + i * dim);
  return out;
}

// The contract written as plainly as possible: one row, one element at a time, std::fma.
class Specification {
 public:
  static std::vector<float> attend(const Sequence& sequence, const float* q, Row row) {
    State total;
    for (int chunk = 0; chunk < row.end; chunk += kChunkKeys) {
      State state;
      state.o.resize(static_cast<std::size_t>(sequence.layout().head_dim));
      for (int tile = chunk; tile < chunk + kChunkKeys; tile += kTileKeys) walk(sequence, q, row, tile, state);
      merge(total, state);
    }
    for (float& o : total.o) o = o * (1.0F / total.l) + 0.0F;
    return total.o;
  }

 private:
  struct State {
    float m = -kInfinity;
    float l = 0;
    std::vector<float> o;
  };

  static float exp(float x) {
    if (x < -87.0F) return 0;
    const float n = std::nearbyint(x * 1.44269504F);
    const float r = std::fma(n, 2.12194440e-4F, std::fma(n, -0.693359375F, x));
    float p = 1.9875691500e-4F;
    for (float c : {1.3981999507e-3F, 8.3334519073e-3F, 4.1665795894e-2F, 1.6666665459e-1F, 5.0000001201e-1F}) {
      p = std::fma(p, r, c);
    }
    return std::ldexp(std::fma(p, r * r, r) + 1.0F, static_cast<int>(n));
  }

  static float chain(KvFormat format, int count, const std::function<float(int)>& a, const std::function<float(int)>& b,
                     float acc) {
    for (int i = 0; i < count; i++) {
      const int t = format == KvFormat::bf16 ? i ^ 1 : i;
      acc = std::fma(a(t), b(t), acc);
    }
    return acc;
  }

  static void walk(const Sequence& sequence, const float* q, Row row, int tile, State& state) {
    const auto seen = [&](int i) { return row.sees(tile + i); };
    bool any = false;
    for (int i = 0; i < kTileKeys; i++) any = any || seen(i);
    if (!any) return;
    const KvFormat format = sequence.layout().format;
    const int dim = sequence.layout().head_dim;
    float s[kTileKeys];
    float m = state.m;
    for (int i = 0; i < kTileKeys; i++) {
      s[i] = -kInfinity;
      if (!seen(i)) continue;
      const float* k = sequence.k(tile + i);
      s[i] = chain(
                 format, dim, [&](int d) { return q[d]; }, [&](int d) { return k[d]; }, 0.0F) *
             sequence.scale();
      m = std::max(m, s[i]);
    }
    float lanes[16];
    for (float& x : s) x = exp(x - m);
    for (int j = 0; j < 16; j++) lanes[j] = (s[j] + s[j + 16]) + (s[j + 32] + s[j + 48]);
    for (int half = 8; half > 0; half /= 2) {
      for (int j = 0; j < half; j++) lanes[j] += lanes[j + half];
    }
    const float fade = exp(state.m - m);
    state.l = state.l * fade;
    state.l = state.l + lanes[0];
    for (int d = 0; d < dim; d++) {
      float& o = state.o[static_cast<std::size_t>(d)];
      o = chain(
          format, kTileKeys, [&](int i) { return rounded(s[i], format); },
          [&](int i) { return seen(i) ? sequence.v(tile + i)[d] : 0.0F; }, o * fade);
    }
    state.m = m;
  }

  static void merge(State& total, const State& state) {
    if (state.m == -kInfinity) return;
    if (total.m == -kInfinity) {
      total = state;
      return;
    }
    const float m = std::max(total.m, state.m);
    const float a = exp(total.m - m);
    const float b = exp(state.m - m);
    total.l = std::fma(state.l, b, total.l * a);
    for (std::size_t d = 0; d < total.o.size(); d++) total.o[d] = std::fma(state.o[d], b, total.o[d] * a);
    total.m = m;
  }
};

// The first index whose bits differ, or -1.
int first_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return 0;
  for (std::size_t i = 0; i < a.size(); i++) {
    if (as_bits(a[i]) != as_bits(b[i])) return static_cast<int>(i);
  }
  return -1;
}

const Kernels& scalar_level() {
  return *runnable_kernels().front();
}

class Attention : public testing::TestWithParam<KvFormat> {
 protected:
  FloatState state_;
};
INSTANTIATE_TEST_SUITE_P(Formats, Attention, testing::Values(KvFormat::bf16, KvFormat::f32),
                         [](const auto& format) { return std::string(name(format.param)); });

TEST_P(Attention, ScalarIsTheSpecification) {
  for (const Data& data : {kFlat, kNormal, kSharp, kTiny, kTinyValues, kWideKeys, kWideValues}) {
    for (int dim : {16, 48}) {
      Sequence sequence(GetParam(), dim, 600, data);
      sequence.write_to(600);
      const auto q = sequence.queries(1);
      for (Row row : {Row{0, 1}, Row{0, 2}, Row{0, 63}, Row{0, 64}, Row{0, 65}, Row{0, 257}, Row{0, 600}, Row{3, 9},
                      Row{70, 71}, Row{100, 300}, Row{256, 513}, Row{100, 300, 0, 4}, Row{70, 90, 0, 70},
                      Row{540, 600, 3, 20}, Row{300, 301, 60, 70}, Row{520, 590, 0, 300}}) {
        const auto expected = Specification::attend(sequence, q.data(), row);
        const auto out = attend(scalar_level(), sequence, q, {row});
        ASSERT_EQ(first_difference(expected, out), -1) << data.name << " " << dim << " " << row.begin << " " << row.end;
      }
    }
  }
}

// Decode of three query heads: later keys are not written yet.
TEST_P(Attention, EveryLevelAgreesAtEveryLength) {
  for (const Data& data : {kNormal, kSharp, kTiny, kTinyValues, kWideValues}) {
    Sequence sequence(GetParam(), 32, 1104, data);
    for (int n = 1; n <= 1100; n++) {
      sequence.write_to(n);
      if (n > 200 && n % 97 != 0 && n % 256 > 1 && n != 1100) continue;
      const auto q = sequence.queries(3);
      const std::vector<Row> rows(3, Row{0, n});
      const auto expected = attend(scalar_level(), sequence, q, rows);
      for (const Kernels* level : runnable_kernels()) {
        for (const bool large_l1 : {false, true}) {
          ASSERT_EQ(first_difference(expected, attend(*level, sequence, q, rows, kAllRows, large_l1)), -1)
              << level->name << " " << data.name << " " << n;
        }
      }
    }
  }
}

TEST_P(Attention, EveryLevelAgreesAtEveryHeadSizeAndNumberOfRows) {
  for (int dim = 16; dim <= kMaxHeadDim; dim += 16) {
    Sequence sequence(GetParam(), dim, 160, kNormal, dim);
    sequence.write_to(150);
    for (int count :
         dim % 64 == 0 ? std::vector<int>{1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 17} : std::vector<int>{1, 3, 6, 7}) {
      const auto q = sequence.queries(count);
      std::vector<Row> rows;
      for (int i = 0; i < count; i++) rows.push_back({i % 4 == 3 ? 40 + i : 0, 150 - count + i});
      const auto expected = attend(scalar_level(), sequence, q, rows);
      for (const Kernels* level : runnable_kernels()) {
        for (const bool large_l1 : {false, true}) {
          ASSERT_EQ(first_difference(expected, attend(*level, sequence, q, rows, kAllRows, large_l1)), -1)
              << level->name << " " << dim << " " << count;
        }
      }
    }
  }
}

// Decode over the keys that are there = prefill over all of them, in any grouping of the rows.
TEST_P(Attention, ResultsDoNotDependOnTheOtherRows) {
  constexpr int kDim = 64;
  for (const Data& data : {kNormal, kTiny}) {
    Sequence sequence(GetParam(), kDim, 400, data);
    std::vector<Row> rows;
    for (int i = 0; i < 17; i++) rows.push_back({i % 5 == 4 ? 190 : 0, 241 + i});
    const auto q = sequence.queries(17);
    std::vector<float> alone;
    for (std::size_t i = 0; i < rows.size(); i++) {
      sequence.write_to(rows[i].end);
      const auto at = q.begin() + static_cast<std::ptrdiff_t>(i) * kDim;
      const auto row = attend(scalar_level(), sequence, {at, at + kDim}, {rows[i]});
      alone.insert(alone.end(), row.begin(), row.end());
    }
    sequence.write_to(400);
    for (const Kernels* level : runnable_kernels()) {
      for (int per_call : {1, 2, 3, 5, 7, 16, 17}) {
        ASSERT_EQ(first_difference(alone, attend(*level, sequence, q, rows, per_call)), -1) << level->name << per_call;
      }
    }
  }
}

// Slots beyond a row's keys, the other heads and the zero's sign: none of them may show.
TEST_P(Attention, HiddenValuesChangeNoBit) {
  for (const Data& data : {kNormal, kTiny}) {
    Sequence sequence(GetParam(), 64, 300, data);
    sequence.write_to(275);
    const auto q = sequence.queries(4);
    const std::vector<Row> rows = {{0, 275}, {0, 270}, {33, 200}, {0, 5}};
    for (const Kernels* level : runnable_kernels()) {
      sequence.fill_junk(3);
      const auto expected = attend(*level, sequence, q, rows);
      for (unsigned seed = 4; seed < 12; seed++) {
        sequence.fill_junk(seed);
        ASSERT_EQ(first_difference(expected, attend(*level, sequence, q, rows)), -1) << level->name;
      }
      sequence.write_to(300);  // later tokens arrive
      ASSERT_EQ(first_difference(expected, attend(*level, sequence, q, rows)), -1) << level->name;
    }
  }
}

TEST_P(Attention, AZeroIsPositiveWhateverIsHidden) {
  Sequence sequence(GetParam(), 16, 16, kNormal);
  sequence.set(0, std::vector<float>(16, 0.0F), std::vector<float>(16, -0.0F));
  for (const Kernels* level : runnable_kernels()) {
    for (unsigned seed = 1; seed < 20; seed++) {
      sequence.fill_junk(seed);
      for (float x : attend(*level, sequence, std::vector<float>(16, 1.0F), {{0, 1}})) ASSERT_EQ(as_bits(x), 0U);
    }
  }
}

// 2^-126 - 2^-152 rounds to 2^-126 and so is not flushed, although it is below 2^-126 before rounding.
TEST_P(Attention, FlushIsDecidedAfterRounding) {
  Sequence sequence(GetParam(), 16, 16, kNormal);
  std::vector<float> k(16, 0.0F);
  sequence.set(0, k, std::vector<float>(16, 0x1p-126F));
  sequence.set(1, k, std::vector<float>(16, 0.0F));
  k[0] = -4.0F * 18.02F;  // after the scale of 1/4: p = 2^-26
  sequence.set(2, k, std::vector<float>(16, -0x1p-126F));
  sequence.set(3, k, std::vector<float>(16, 0.0F));
  std::vector<float> q(16, 0.0F);
  q[0] = 1.0F;
  for (const Kernels* level : runnable_kernels()) {
    const auto two = attend(*level, sequence, q, {{0, 2}});
    ASSERT_EQ(two[0], 0.0F) << "half of 2^-126 is flushed";
    alignas(64) float o[16];
    AttentionState state{0, 0, o};
    const std::int32_t begin = 0;
    const std::int32_t end = 4;
    std::uint32_t stored[16];
    scalar::store_q(q.data(), 16, GetParam(), stored);
    level->attend({.format = GetParam(),
                   .head_dim = 16,
                   .pages = sequence.pages(),
                   .page_count = 1,
                   .k_offset = sequence.k_offset(),
                   .v_offset = sequence.v_offset(),
                   .q = stored,
                   .q_stride = 16,
                   .rows = 1,
                   .begin = &begin,
                   .end = &end,
                   .chunk = 0,
                   .scale = sequence.scale(),
                   .out = &state});
    for (float x : o) ASSERT_EQ(x, 0x1p-126F) << level->name;
  }
}

TEST_P(Attention, BlocksBeyondThePageCountAreNotRead) {
  Sequence sequence(GetParam(), 32, 300, kNormal);
  sequence.write_to(300);
  const auto q = sequence.queries(2);
  std::vector<std::byte*> pages(sequence.pages(), sequence.pages() + 2);
  const std::vector<std::int32_t> begin(2, 0);
  const std::vector<std::int32_t> end = {32, 20};
  const Floats stored = aligned_floats(64);
  scalar::store_q(q.data(), 64, GetParam(), stored.get());
  const auto expected = attend(scalar_level(), sequence, q, {{0, 32}, {0, 20}});
  for (const Kernels* level : runnable_kernels()) {
    const Floats o = aligned_floats(64);
    AttentionState states[2] = {{0, 0, o.get()}, {0, 0, o.get() + 32}};
    AttentionArgs args{.format = GetParam(),
                       .head_dim = 32,
                       .pages = pages.data(),
                       .page_count = 2,
                       .k_offset = sequence.k_offset(),
                       .v_offset = sequence.v_offset(),
                       .q = stored.get(),
                       .q_stride = 32,
                       .rows = 2,
                       .begin = begin.data(),
                       .end = end.data(),
                       .chunk = 0,
                       .scale = sequence.scale(),
                       .out = states};
    level->attend(args);
    std::vector<float> out(64);
    for (int i = 0; i < 2; i++) level->finish(states[i], 32, out.data() + 32 * i);
    EXPECT_EQ(first_difference(expected, out), -1) << level->name;

    args.chunk = 1;
    level->attend(args);
    for (const AttentionState& state : states) {
      EXPECT_EQ(state.m, -kInfinity) << "nothing is visible in the second chunk";
      EXPECT_EQ(state.l, 0);
    }
  }
}

TEST_P(Attention, KeptKeysAreSeenOnEveryLevelInAnyCompany) {
  Sequence sequence(GetParam(), 64, 800, kNormal);
  sequence.write_to(800);
  std::mt19937 random(3);
  for (int round = 0; round < 60; round++) {
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    std::vector<Row> rows;
    for (int i = 1 + below(14); i > 0; i--) {
      Row row{below(700), 0};
      row.end = row.begin + 1 + below(800 - row.begin);
      if (below(3) > 0) row.kept_end = below(row.begin + 1);
      if (below(4) == 0) row.kept_begin = below(row.kept_end + 1);
      rows.push_back(row);
    }
    const auto q = sequence.queries(static_cast<int>(rows.size()));
    std::vector<float> expected;
    for (std::size_t i = 0; i < rows.size(); i++) {
      const auto one = Specification::attend(sequence, q.data() + 64 * i, rows[i]);
      expected.insert(expected.end(), one.begin(), one.end());
    }
    for (const Kernels* level : runnable_kernels()) {
      ASSERT_EQ(first_difference(expected, attend(*level, sequence, q, rows)), -1) << level->name << " " << round;
    }
  }
}

TEST_P(Attention, BlocksBeforeAWindowMayBeAbsent) {
  Sequence sequence(GetParam(), 32, 700, kNormal);
  sequence.write_to(700);
  const auto q = sequence.queries(3);
  for (const int begin : {1, 16, 37, 63, 64, 200, 255, 256, 300, 575}) {
    const std::vector<Row> rows = {{begin, 640}, {begin + 1, 641}, {begin + 2, 642}};
    const auto expected = attend(scalar_level(), sequence, q, rows);
    sequence.leave_out(begin / kBlockTokens);
    for (const Kernels* level : runnable_kernels()) {
      EXPECT_EQ(first_difference(expected, attend(*level, sequence, q, rows)), -1) << level->name << " from " << begin;
    }
  }
}

// Where codes start within a chunk, its keys are attended to in two calls, each with the other's blocks absent.
TEST_P(Attention, AChunkMayEndAtAnyBlockForRowsThatSeeSomeOfItOrNothing) {
  Sequence sequence(GetParam(), 32, 256, kNormal);
  sequence.write_to(256);
  const auto q = sequence.queries(4);
  const Floats stored = aligned_floats(128);
  scalar::store_q(q.data(), 128, GetParam(), stored.get());
  for (const int cut : {16, 48, 64, 80, 128, 240}) {
    std::vector<std::byte*> pages(sequence.pages(), sequence.pages() + 16);
    std::fill(pages.begin() + cut / kBlockTokens, pages.end(), nullptr);
    const std::vector<std::int32_t> begin = {0, cut, 5, cut - 16};
    const std::vector<std::int32_t> end = {cut, cut, cut, cut};
    for (const Kernels* level : runnable_kernels()) {
      const Floats o = aligned_floats(128);
      AttentionState states[4];
      for (int i = 0; i < 4; i++) states[i].o = o.get() + 32 * i;
      level->attend({.format = GetParam(),
                     .head_dim = 32,
                     .pages = pages.data(),
                     .page_count = 16,
                     .k_offset = sequence.k_offset(),
                     .v_offset = sequence.v_offset(),
                     .q = stored.get(),
                     .q_stride = 32,
                     .rows = 4,
                     .begin = begin.data(),
                     .end = end.data(),
                     .chunk = 0,
                     .scale = sequence.scale(),
                     .out = states});
      EXPECT_EQ(states[1].m, -kInfinity);
      EXPECT_EQ(states[1].l, 0);
      for (std::size_t i : {0U, 2U, 3U}) {
        std::vector<float> out(32);
        level->finish(states[i], 32, out.data());
        const auto expected = Specification::attend(sequence, q.data() + 32 * i, {begin[i], end[i]});
        EXPECT_EQ(first_difference(expected, out), -1) << level->name << " " << cut << " " << i;
      }
    }
  }
}

TEST_P(Attention, ARowOfNaNStaysNaNAndAlone) {
  Sequence sequence(GetParam(), 32, 400, kNormal);
  sequence.write_to(400);
  auto q = sequence.queries(3);
  const std::vector<Row> rows = {{0, 400}, {0, 400}, {30, 31}};
  const auto clean = attend(scalar_level(), sequence, q, rows);
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
    q[32] = bad;
    q[70] = bad;
    for (const Kernels* level : runnable_kernels()) {
      const auto out = attend(*level, sequence, q, rows);
      for (int d = 0; d < 32; d++) {
        EXPECT_EQ(as_bits(out[static_cast<std::size_t>(d)]), as_bits(clean[static_cast<std::size_t>(d)]));
      }
      EXPECT_TRUE(std::all_of(out.begin() + 32, out.end(), [](float x) { return std::isnan(x); })) << level->name;
    }
  }
}

TEST_P(Attention, IsCloseToAnExactSoftmax) {
  for (const Data& data : {kFlat, kNormal, kSharp}) {
    Sequence sequence(GetParam(), 64, 700, data);
    sequence.write_to(700);
    const auto q = sequence.queries(1);
    const auto out = attend(*runnable_kernels().back(), sequence, q, {{0, 700}});
    std::vector<double> score;
    for (int key = 0; key < 700; key++) {
      score.push_back(static_cast<double>(sequence.scale()) *
                      std::inner_product(q.begin(), q.end(), sequence.k(key), 0.0));
    }
    const double top = *std::max_element(score.begin(), score.end());
    double sum = 0;
    for (double& s : score) sum += s = std::exp(s - top);
    for (int d = 0; d < 64; d++) {
      double exact = 0;
      for (int key = 0; key < 700; key++)
        exact += score[static_cast<std::size_t>(key)] / sum * static_cast<double>(sequence.v(key)[d]);
      // bf16 rounds each probability by at most 2^-9; float adds some 2^-24 per step.
      const double allowed = GetParam() == KvFormat::bf16 ? 0x1p-8 : 2e-5;
      ASSERT_NEAR(out[static_cast<std::size_t>(d)], exact, allowed) << data.name;
    }
  }
}

}  // namespace
}  // namespace dalsegno
