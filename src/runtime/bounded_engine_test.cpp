#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "gguf/gguf_writer.hpp"
#include "runtime/test_engine.hpp"

// Engines whose K/V are bounded, in memory that holds a fraction of a sequence's tokens.

namespace dalsegno {
namespace {

constexpr int kContext = 16'384;

class BoundedEngine : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    path_ = std::filesystem::path(::testing::TempDir()) / ("bounded-" + std::to_string(::getpid()) + ".gguf");
    testing::TestGguf file = testing::tiny_model(
        {.architecture = GetParam(), .type = TensorType::f32, .layers = 4, .head_dim = 64, .context = kContext});
    if (std::string(GetParam()) == "gemma3") {
      file.set("gemma3.attention.sliding_window", testing::u32(48));
      file.set("gemma3.attention.sliding_window_pattern", testing::u32(6));  // of four layers all slide
    }
    std::ofstream(path_, std::ios::binary) << file.bytes();
  }
  void TearDown() override { std::filesystem::remove(path_); }

  [[nodiscard]] std::unique_ptr<LocalEngine> open(const KvOptions& kv, std::uint64_t bytes) const {
    EngineOptions options;
    options.model_path = path_.string();
    options.kv = kv;
    options.threads = 2;
    options.memory.bytes = bytes;
    auto opened = LocalEngine::open(options);
    return opened.ok() ? std::move(opened).value() : nullptr;
  }
  // The least with which an engine opens.
  [[nodiscard]] std::uint64_t least() const {
    std::uint64_t fails = 1 << 20;
    std::uint64_t opens = 512 << 20;
    while (opens - fails > (64 << 10)) {
      const std::uint64_t middle = fails + (opens - fails) / 2;
      (open({}, middle) != nullptr ? opens : fails) = middle;
    }
    return opens;
  }

  std::filesystem::path path_;
};

TEST_P(BoundedEngine, ALongRunNeedsMemoryForWhatIsInSightAndAStep) {
  const bool slides = std::string(GetParam()) == "gemma3";
  const std::uint64_t bytes = least() + (4 << 20);
  if (!slides) {
    EXPECT_LT(open({}, bytes)->context(), 5000) << "what it takes unbounded";
  }
  const KvOptions kv = slides ? KvOptions{} : KvOptions{.max_size = 64, .keep = 7};
  const auto engine = open(kv, bytes);
  ASSERT_NE(engine, nullptr);
  EXPECT_EQ(engine->context(), kContext);
  std::mt19937 random(9);
  std::vector<TokenId> tokens = testing::random_tokens(random, 6000, 256);
  const auto first = testing::run(*engine, tokens, {.from = 5900, .chunk = 200, .steps = 300});
  testing::check_cache(*engine);
  tokens.insert(tokens.end(), first->reply.begin(), first->reply.end());
  EXPECT_EQ(tokens.size(), 6300U);
  const auto warm = testing::run(*engine, tokens, {.from = 6290});
  EXPECT_GE(warm->admission().reused, 6288);
  const auto cold = testing::run(*engine, tokens, {.from = 5900, .chunk = 100, .reuse = false});
  for (const auto& [position, bits] : cold->logits()) {
    const auto& same = position < 6299 ? first : warm;
    ASSERT_EQ(bits, same->logits().at(position)) << position;
  }
  testing::check_cache(*engine);
}

INSTANTIATE_TEST_SUITE_P(Architectures, BoundedEngine, ::testing::Values("llama", "gemma3"));

}  // namespace
}  // namespace dalsegno
