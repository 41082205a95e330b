#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "dalsegno/diagnostics.hpp"
#include "gguf/gguf_writer.hpp"
#include "tensor/kv_view.hpp"
#include "tensor/packing.hpp"

namespace dalsegno {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using ::testing::Contains;
using ::testing::HasSubstr;

Result<InspectReport> inspect_model(const TestGguf& model, const KvOptions& kv = {}, int context = 0) {
  const auto path =
      std::filesystem::temp_directory_path() / ("dalsegno-inspect-" + std::to_string(::getpid()) + ".gguf");
  std::ofstream(path, std::ios::binary) << model.bytes();
  auto report = inspect(path.string(), kv, context);
  std::filesystem::remove(path);
  return report;
}

TEST(Inspect, SaysWhatAFileHolds) {
  const auto report = inspect(DALSEGNO_GOLDEN "/tiny/llama-gqa.gguf", {}, 0);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->gguf_version, 3);
  EXPECT_EQ(report->architecture, "llama");
  EXPECT_EQ(report->name, "tiny-llama-gqa");
  EXPECT_TRUE(report->runnable);
  EXPECT_EQ(report->layers, 2);
  EXPECT_EQ(report->vocabulary, 264);
  EXPECT_EQ(report->context, 2048);
  EXPECT_EQ(report->at_context, 2048);
  EXPECT_EQ(report->tokenizer_model, "gpt2");
  EXPECT_EQ(report->tokenizer_pre, "smollm");
  EXPECT_FALSE(report->has_template);
  ASSERT_EQ(report->tensor_types.size(), 1U);
  EXPECT_EQ(report->tensor_types[0].type, "F32");
  EXPECT_EQ(report->tensor_types[0].count, 21);
  // Embedding and output, then per layer q, k, v, output, three of the feed-forward and two norms; the last norm.
  const std::uint64_t layer = 128 * 128 + 2 * 128 * 64 + 128 * 128 + 3 * 128 * 64 + 2 * 128;
  EXPECT_EQ(report->parameters, 2 * 264 * 128 + 2 * layer + 128);
  EXPECT_EQ(report->tensor_types[0].bytes, 4 * report->parameters);
}

TEST(Inspect, KeysAndValuesTakeWholeBlocks) {
  const TestGguf model = tiny_model();  // 2 layers, 1 K/V head of 16
  const auto bf16 = inspect_model(model, {.format = KvFormat::bf16}, 33);
  const auto f32 = inspect_model(model, {.format = KvFormat::f32}, 33);
  const auto longer = inspect_model(model, {.format = KvFormat::f32}, 49);
  ASSERT_TRUE(bf16.ok() && f32.ok() && longer.ok());
  EXPECT_EQ(bf16->kv_bytes_per_token, 2U * 2 * 16 * 2);
  EXPECT_EQ(f32->kv_bytes_per_token, 2U * 2 * 16 * 4);
  EXPECT_EQ(f32->at_context, 33);
  EXPECT_GE(longer->memory_at_context - f32->memory_at_context, 16 * f32->kv_bytes_per_token);
}

TEST(Inspect, TokensBeforeTheStartOfCodesTakeWhatTheyTakeInBf16) {
  const TestGguf model = tiny_model({.layers = 16, .head_dim = 64, .context = 4096});
  const auto kv_of = [&](const KvOptions& kv, int context) {
    const auto report = inspect_model(model, kv, context);
    EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().message);
    return report.ok() ? report->memory_at_context : 0;
  };
  const KvOptions codes{.format = KvFormat::q8};
  const KvOptions mixed{.format = KvFormat::q8, .start = 1000};
  const auto report = inspect_model(model, mixed, 2048);
  ASSERT_TRUE(report.ok());
  EXPECT_EQ(report->kv_start, 1008);
  // But for what the index rounds to whole pieces.
  EXPECT_NEAR(static_cast<double>(kv_of(mixed, 2048) - kv_of(mixed, 1008)),
              static_cast<double>(kv_of(codes, 2048) - kv_of(codes, 1008)), 64);
  EXPECT_GE(kv_of(mixed, 2048) - kv_of(codes, 2048), 1008U * 16 * 2 * 2 * 64 * 9 / 20);
  EXPECT_EQ(report->kv_bytes_per_token, inspect_model(model, codes, 2048)->kv_bytes_per_token);
  const std::uint64_t plain = inspect_model(model, {}, 2048)->kv_bytes_per_token;
  EXPECT_EQ(inspect_model(model, mixed, 1008)->kv_bytes_per_token, plain) << "no token of such a context becomes codes";
  EXPECT_EQ(inspect_model(model, mixed, 500)->kv_bytes_per_token, plain);
  EXPECT_NE(report->kv_bytes_per_token, plain);
  const KvOptions bounded{.max_size = 256};
  EXPECT_LT(kv_of(bounded, 4096) + (8U << 20), kv_of({}, 4096));
}

TEST(Inspect, WeightsAreCountedAsTheyLieInMemory) {
  const auto report = inspect_model(tiny_model({.layers = 1}));
  ASSERT_TRUE(report.ok()) << report.error().message;
  const auto packed = [](int n, int k) { return packed_bytes(packed_format(TensorType::q8_0), n, k); };
  const std::uint64_t attention = packed(32, 32) + 2 * packed(16, 32) + packed(32, 32);
  const std::uint64_t feed_forward = 2 * packed(64, 32) + packed(32, 64);
  EXPECT_EQ(report->packed_weight_bytes, packed(259, 32) + attention + feed_forward + 3 * 32 * 4);
}

TEST(Inspect, AnUnknownArchitectureIsDescribed) {
  TestGguf model = tiny_model();
  model.set("general.architecture", text("mamba"));
  model.set("mamba.block_count", u32(24));
  model.set("mamba.embedding_length", text("wide"));
  const auto report = inspect_model(model);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->architecture, "mamba");
  EXPECT_FALSE(report->runnable);
  EXPECT_EQ(report->layers, 24);
  EXPECT_EQ(report->hidden, 0);
  EXPECT_EQ(report->vocabulary, 259);
  EXPECT_EQ(report->memory_at_context, 0U);
  EXPECT_GT(report->parameters, 0U);
}

TEST(Inspect, WhatThisVersionCannotRunIsDescribedWithTheReason) {
  TestGguf model = tiny_model();
  model.set("llama.expert_count", u32(8));
  const auto report = inspect_model(model);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_FALSE(report->runnable);
  EXPECT_EQ(report->layers, 2);
  EXPECT_THAT(report->unusual, Contains(HasSubstr("8 experts")));
}

TEST(Inspect, ADamagedModelIsAnError) {
  TestGguf model = tiny_model();
  model.remove_tensor("output_norm.weight");
  const auto report = inspect_model(model);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::corrupt);
}

TEST(Inspect, AnUnknownSplitRuleIsUnusual) {
  TestGguf model = tiny_model();
  model.set("tokenizer.ggml.pre", text("no-such-rule"));
  const auto report = inspect_model(model);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->tokenizer_pre, "no-such-rule");
  EXPECT_FALSE(report->unusual.empty());
}

TEST(Inspect, NamesAreFitForOneLine) {
  TestGguf model = tiny_model();
  model.set("general.name", text("two\nlines \xff"));
  const auto report = inspect_model(model);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->name, "two\\x0alines \\xff");
}

TEST(Inspect, ImpossibleContexts) {
  EXPECT_EQ(inspect_model(tiny_model(), {.format = KvFormat::bf16}, -1).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(inspect_model(tiny_model(), {.format = KvFormat::bf16}, 1 << 30).error().code, ErrorCode::invalid_argument);
  const auto beyond = inspect_model(tiny_model({.context = 4096}), {.format = KvFormat::bf16}, 4097);
  ASSERT_FALSE(beyond.ok());
  EXPECT_EQ(beyond.error().code, ErrorCode::invalid_argument);
  EXPECT_THAT(beyond.error().message, HasSubstr("made for at most 4096"));
  EXPECT_EQ(inspect("/no/such/model.gguf", {}, 0).error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace dalsegno
