#include "runtime/opening.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

#include "base/memory_budget.hpp"
#include "dalsegno/diagnostics.hpp"
#include "dalsegno/memory.hpp"
#include "dalsegno/prompt_cache.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Opened {
  const char* model;
  KvOptions kv;
  int activation_bits;
  int threads;
  int context;
};

EngineOptions options_of(const Opened& shape, std::uint64_t bytes) {
  EngineOptions options;
  options.model_path = testing::tiny_model(shape.model);
  options.kv = shape.kv;
  options.activation_bits = shape.activation_bits;
  options.threads = shape.threads;
  options.context = shape.context;
  options.memory.bytes = bytes;
  return options;
}

class Opening : public ::testing::TestWithParam<Opened> {};

TEST_P(Opening, WhatIsSaidToBeNeededIsWhatAnEngineNeedsToTheByte) {
  const Opened& shape = GetParam();
  const auto report =
      inspect(testing::tiny_model(shape.model), shape.kv, shape.context, shape.activation_bits, shape.threads);
  ASSERT_TRUE(report.ok()) << report.error().message;
  const std::uint64_t needed = report->memory_at_context;
  {
    const auto engine = LocalEngine::open(options_of(shape, needed));
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    EXPECT_EQ((*engine)->context(), shape.context);
    EXPECT_EQ((*engine)->bytes(), LocalEngine::bytes_needed(options_of(shape, needed)).value());
    std::mt19937 random(1);
    const auto reply = (*engine)->generate(testing::random_tokens(random, shape.context), {.max_tokens = 1}, {});
    EXPECT_TRUE(reply.ok()) << (reply.ok() ? "" : reply.error().message);
  }
  const auto smaller = LocalEngine::open(options_of(shape, needed - 1));
  EXPECT_LT(smaller.ok() ? (*smaller)->context() : 0, shape.context);
}

INSTANTIATE_TEST_SUITE_P(AllKinds, Opening,
                         ::testing::Values(Opened{"llama-gqa", {}, 8, 2, 2048}, Opened{"llama-gqa", {}, 16, 5, 100},
                                           Opened{"llama-gqa", {.format = KvFormat::q4, .start = 200}, 8, 1, 777},
                                           Opened{"llama-gqa", {.max_size = 100, .keep = 20}, 8, 2, 1500},
                                           Opened{"qwen2-bias", {.format = KvFormat::f32}, 8, 2, 300},
                                           Opened{"qwen3-qknorm", {.format = KvFormat::q8}, 16, 2, 500},
                                           Opened{"gemma3-swa", {}, 8, 2, 600}));

TEST(OpeningBudget, TooSmallABudgetIsToldWhatIsNeededInAll) {
  const Opened shape{"llama-gqa", {}, 8, 2, 2048};
  const std::uint64_t needed = [&] {
    const auto file = GgufFile::open(testing::tiny_model(shape.model)).value();
    return memory_needs(*file, read_config(*file).value(), options_of(shape, 0), 1).value().total();
  }();
  EXPECT_TRUE(LocalEngine::open(options_of(shape, needed)).ok());
  for (const std::uint64_t bytes : {std::uint64_t{1} << 20, needed / 2, needed - (1 << 20)}) {
    const auto refused = LocalEngine::open(options_of(shape, bytes));
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, ErrorCode::exhausted);
    EXPECT_THAT(refused.error().message, AllOf(HasSubstr("llama-gqa.gguf' needs at least " + human_bytes(needed) + ","),
                                               HasSubstr("but the memory budget is " + human_bytes(bytes) + ";")));
  }
  const auto just = LocalEngine::open(options_of(shape, needed - 1));
  ASSERT_FALSE(just.ok());
  EXPECT_THAT(just.error().message,
              AllOf(HasSubstr("needs at least " + std::to_string(needed) + " bytes, but the memory budget is " +
                              std::to_string(needed - 1) + " bytes;")));
}

// A damaged tensor, which is what loading would end with.
TEST(OpeningBudget, IsTooSmallBeforeATensorIsRead) {
  const Opened shape{"llama-gqa", {}, 8, 2, 2048};
  const std::string whole = testing::tiny_model(shape.model);
  const auto damaged =
      std::filesystem::path(::testing::TempDir()) / ("opening_" + std::to_string(::getpid()) + ".gguf");
  std::filesystem::copy_file(whole, damaged, std::filesystem::copy_options::overwrite_existing);
  const auto file = GgufFile::open(whole).value();
  {
    std::fstream out(damaged, std::ios::in | std::ios::out | std::ios::binary);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    out.seekp(static_cast<std::streamoff>(file->find_tensor("blk.0.attn_norm.weight")->offset));
    out.write(reinterpret_cast<const char*>(&nan), sizeof nan);
  }
  EngineOptions options = options_of(shape, 0);
  const std::uint64_t needed = memory_needs(*file, read_config(*file).value(), options, 1).value().total();
  options.model_path = damaged.string();
  for (const bool enough : {true, false}) {
    options.memory.bytes = enough ? needed : needed - 1;
    const auto refused = LocalEngine::open(options);
    ASSERT_FALSE(refused.ok());
    EXPECT_EQ(refused.error().code, enough ? ErrorCode::corrupt : ErrorCode::exhausted) << refused.error().message;
  }
  std::filesystem::remove(damaged);
}

TEST(OpeningBudget, WhatIsCachedCanBeSavedAndLoadedHoweverFullItIs) {
  const Opened shape{"gemma3-swa", {}, 8, 2, 600};
  const auto report =
      inspect(testing::tiny_model(shape.model), shape.kv, shape.context, shape.activation_bits, shape.threads);
  const auto engine = LocalEngine::open(options_of(shape, report->memory_at_context)).value();
  const auto path = std::filesystem::path(::testing::TempDir()) / ("full_" + std::to_string(::getpid()));
  std::mt19937 random(2);
  const auto cache = PromptCache::make(*engine, testing::random_tokens(random, shape.context - 1));
  ASSERT_TRUE(cache.ok()) << cache.error().message;
  MemoryBudget& budget = engine->memory().budget();
  const auto rest = budget.reserve(MemoryKind::work, budget.free_bytes(), "a test");  // no byte is left
  ASSERT_TRUE(rest.ok()) << rest.error().message;
  const Result<void> saved = cache->save(path.string());
  EXPECT_TRUE(saved.ok()) << saved.error().message;
  const auto loaded = PromptCache::load(*engine, path.string());
  EXPECT_TRUE(loaded.ok()) << loaded.error().message;
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace dalsegno
