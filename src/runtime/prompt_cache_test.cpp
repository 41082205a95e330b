#include "dalsegno/prompt_cache.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/files.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

using testing::check_cache;
using testing::open_engine;
using testing::random_tokens;
using testing::run;
using testing::TestEngineOptions;

class PromptCacheTest : public ::testing::Test {
 protected:
  PromptCacheTest() {
    folder_ =
        std::filesystem::path(::testing::TempDir()) /
        fmt::format("prompt_cache_{}_{}", ::getpid(), ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~PromptCacheTest() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string path(const char* name = "a") const { return (folder_ / name).string(); }

  std::filesystem::path folder_;
  std::mt19937 random_{5};
};

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {(std::istreambuf_iterator<char>(in)), {}};
}

void put(const std::string& path, const std::string& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

PromptCache made(LocalEngine& engine, const std::vector<TokenId>& tokens) {
  auto cache = PromptCache::make(engine, tokens);
  EXPECT_TRUE(cache.ok()) << (cache.ok() ? "" : cache.error().message);
  return cache.ok() ? std::move(cache).value() : PromptCache{};
}

// The logits of the last token, and of `steps` after it, and how much of the prompt was reused.
struct Went {
  std::map<int, std::vector<std::uint32_t>> logits;
  int reused = 0;
};
Went go_on(LocalEngine& engine, const std::vector<TokenId>& tokens) {
  const auto recorder = run(engine, tokens, {.from = static_cast<int>(tokens.size()) - 1, .steps = 4});
  return {recorder->logits(), recorder->admission().reused};
}

TEST_F(PromptCacheTest, WhatIsKeptSurvivesAReset) {
  const auto engine = open_engine();
  for (const int length : {1, 15, 16, 17, 100}) {
    const std::vector<TokenId> tokens = random_tokens(random_, length);
    const Went fresh = go_on(*engine, tokens);
    engine->reset_cache();
    const PromptCache cache = made(*engine, tokens);
    EXPECT_EQ(cache.size(), length);
    engine->reset_cache();
    std::vector<TokenId> longer = tokens;
    longer.push_back(7);
    const Went kept = go_on(*engine, longer);
    EXPECT_GE(kept.reused, length / 16 * 16);
    const Went same = go_on(*engine, tokens);
    EXPECT_EQ(same.logits, fresh.logits);
    check_cache(*engine);
  }
}

TEST_F(PromptCacheTest, ADroppedOneIsKeptNoLonger) {
  const auto engine = open_engine();
  const std::vector<TokenId> tokens = random_tokens(random_, 100);
  { const PromptCache cache = made(*engine, tokens); }
  engine->reset_cache();
  EXPECT_EQ(engine->explain(tokens, "")->reused_tokens, 0);
  check_cache(*engine);
}

TEST_F(PromptCacheTest, CopiesAreIndependent) {
  const auto engine = open_engine();
  const std::vector<TokenId> tokens = random_tokens(random_, 90);
  PromptCache cache = made(*engine, tokens);
  PromptCache copy = cache.fork();
  ASSERT_EQ(copy.trim(33).value(), 57);
  EXPECT_EQ(copy.size(), 57);
  EXPECT_EQ(cache.size(), 90);
  EXPECT_TRUE(std::ranges::equal(copy.tokens(), std::span(tokens).first(57)));
  EXPECT_FALSE(copy.trim(-1).ok());
  cache = PromptCache{};
  engine->reset_cache();
  EXPECT_GE(engine->explain(tokens, "")->reused_tokens, 57);
  EXPECT_LE(engine->explain(tokens, "")->reused_tokens, 64) << "the block of its last token";
  EXPECT_EQ(copy.trim(1000).value(), 0);
  EXPECT_EQ(copy.size(), 0);
  engine->reset_cache();
  EXPECT_EQ(engine->explain(tokens, "")->reused_tokens, 0);
  check_cache(*engine);
}

TEST_F(PromptCacheTest, TooMuchIsRefused) {
  const auto engine = open_engine({.context = 2048, .memory_bytes = 40ULL << 20});
  std::vector<PromptCache> kept;
  for (int i = 0; i < 200; ++i) {
    auto cache = PromptCache::make(*engine, random_tokens(random_, 1600));
    if (!cache.ok()) {
      EXPECT_EQ(cache.error().code, ErrorCode::exhausted);
      EXPECT_FALSE(kept.empty());
      const std::vector<TokenId> other = random_tokens(random_, 300);
      EXPECT_EQ(go_on(*engine, other).reused, 0) << "what runs has room still";
      return;
    }
    kept.push_back(std::move(cache).value());
  }
  FAIL() << "200 caches fit into 40 MiB";
}

struct SavedSetup {
  const char* model;
  KvOptions kv;
  int activation_bits = 8;
};
const SavedSetup kSetups[] = {
    {"llama-gqa", {}},
    {"llama-gqa", {.format = KvFormat::f32}, 16},
    {"llama-gqa", {.format = KvFormat::q8, .group_size = 32}},
    {"llama-gqa", {.format = KvFormat::q4, .group_size = 32, .start = 48}},
    {"llama-gqa", {.max_size = 80, .keep = 20}},
    {"llama-gqa", {.format = KvFormat::q8, .group_size = 32, .start = 32, .max_size = 64, .keep = 8}},
    {"qwen3-qknorm", {}},
    {"gemma3-swa", {}},
    {"gemma3-swa", {.format = KvFormat::q4, .group_size = 32, .start = 32}},
    {"gemma3-swa", {.max_size = 96, .keep = 4}},
};

TEST_F(PromptCacheTest, ALoadedOneHasTheSameBitsInAnotherEngine) {
  for (const SavedSetup& setup : kSetups) {
    const TestEngineOptions options{.model = setup.model, .kv = setup.kv, .activation_bits = setup.activation_bits};
    SCOPED_TRACE(::testing::Message() << setup.model << ' ' << name(setup.kv.format) << " start " << setup.kv.start
                                      << " max " << setup.kv.max_size);
    for (const int length : {1, 16, 31, 150}) {
      const std::vector<TokenId> tokens = random_tokens(random_, length);
      std::vector<TokenId> longer = tokens;
      for (const TokenId token : random_tokens(random_, 20)) longer.push_back(token);
      Went wanted;
      {
        const auto engine = open_engine(options);
        const PromptCache cache = made(*engine, tokens);
        const Result<void> saved = cache.save(path());
        ASSERT_TRUE(saved.ok()) << saved.error().message;
        engine->reset_cache();
        wanted = go_on(*engine, longer);
      }
      const auto engine = open_engine(options);
      const auto loaded = PromptCache::load(*engine, path());
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      EXPECT_TRUE(std::ranges::equal(loaded->tokens(), tokens));
      check_cache(*engine);
      const Went went = go_on(*engine, longer);
      EXPECT_EQ(went.reused, length);
      EXPECT_EQ(went.logits, wanted.logits);
      check_cache(*engine);
      // Saved once more it is the same file.
      ASSERT_TRUE(loaded->save(path("again")).ok());
      EXPECT_EQ(contents(path("again")), contents(path()));
    }
  }
}

TEST_F(PromptCacheTest, LoadingWhatIsPartlyCachedTakesTheRest) {
  for (const char* model : {"llama-gqa", "gemma3-swa"}) {
    const std::vector<TokenId> tokens = random_tokens(random_, 203);
    const auto engine = open_engine({.model = model});
    Went wanted;
    {
      const PromptCache cache = made(*engine, tokens);
      ASSERT_TRUE(cache.save(path()).ok());
      wanted = go_on(*engine, tokens);
    }
    for (const int cached : {0, 16, 50, 111, 203}) {
      engine->reset_cache();
      if (cached > 0) (void)run(*engine, {tokens.begin(), tokens.begin() + cached}, {.from = cached});
      const auto loaded = PromptCache::load(*engine, path());
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      check_cache(*engine);
      const Went went = go_on(*engine, tokens);
      EXPECT_EQ(went.reused, 202) << model << ' ' << cached;
      EXPECT_EQ(went.logits, wanted.logits);
    }
    check_cache(*engine);
  }
}

TEST_F(PromptCacheTest, WhatDoesNotFitIsRefusedWithItsReason) {
  const auto engine = open_engine();
  ASSERT_TRUE(made(*engine, random_tokens(random_, 40)).save(path()).ok());
  const auto refused = [&](const TestEngineOptions& options) {
    const auto other = open_engine(options);
    const auto loaded = PromptCache::load(*other, path());
    EXPECT_FALSE(loaded.ok());
    if (loaded.ok()) return std::string();
    EXPECT_EQ(loaded.error().code, ErrorCode::unsupported);
    check_cache(*other);
    return loaded.error().message;
  };
  EXPECT_THAT(refused({.model = "qwen3-qknorm"}), ::testing::HasSubstr("another model"));
  EXPECT_THAT(refused({.kv = {.format = KvFormat::f32}}),
              ::testing::HasSubstr("its K/V are bf16, and here they are f32"));
  EXPECT_THAT(refused({.activation_bits = 16}), ::testing::HasSubstr("activations of 8 bits"));
  EXPECT_THAT(refused({.kv = {.max_size = 64}}), ::testing::HasSubstr("its --max-kv is 0, and here it is 64"));
  EXPECT_THAT(refused({.context = 32}), ::testing::HasSubstr("holds 40 tokens"));
  EXPECT_EQ(PromptCache::load(*engine, path("none")).error().code, ErrorCode::not_found);
  put(path("text"), "This is no saved cache, but long enough to have been one.");
  EXPECT_EQ(PromptCache::load(*engine, path("text")).error().code, ErrorCode::corrupt);
  EXPECT_FALSE(PromptCache{}.save(path("empty")).ok());
  EXPECT_FALSE(std::filesystem::exists(path("empty")));
}

// Each is refused, and what the engine computes afterwards is as if there had been no file.
TEST_F(PromptCacheTest, EveryTruncationAndEveryFlippedBitIsRefused) {
  const auto engine = open_engine();
  const std::vector<TokenId> tokens = random_tokens(random_, 2);
  const Went wanted = go_on(*engine, tokens);
  engine->reset_cache();
  ASSERT_TRUE(made(*engine, tokens).save(path()).ok());
  const std::string good = contents(path());
  const auto refused = [&](const std::string& bytes) {
    put(path("bad"), bytes);
    return !PromptCache::load(*engine, path("bad")).ok();
  };
  // SafetensorsTest flips every bit of a smaller file; here a fifth of them do, whichever bit of a byte that is.
  const std::size_t stride = std::getenv("DALSEGNO_EVERY_BIT") != nullptr ? 1 : 5;
  for (std::size_t size = 0; size < good.size(); size += stride) ASSERT_TRUE(refused(good.substr(0, size))) << size;
  for (std::size_t bit = 0; bit < 8 * good.size(); bit += stride) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    ASSERT_TRUE(refused(bad)) << "bit " << bit << " of " << 8 * good.size();
  }
  engine->reset_cache();
  EXPECT_EQ(go_on(*engine, tokens).logits, wanted.logits);
  check_cache(*engine);
}

// Two processes' worth of caches under one name: whoever is killed leaves the one or the other.
TEST_F(PromptCacheTest, AKilledWriterLeavesTheOldFileOrTheNewOne) {
  const auto engine = open_engine();
  const std::vector<TokenId> first = random_tokens(random_, 200);
  const std::vector<TokenId> second = random_tokens(random_, 300);
  ASSERT_TRUE(made(*engine, first).save(path("first")).ok());
  ASSERT_TRUE(made(*engine, second).save(path("second")).ok());
  const std::string bytes[] = {contents(path("first")), contents(path("second"))};
  ASSERT_TRUE(bytes[0] != bytes[1]);
  const auto start_writer = [&] {
    put(path(), bytes[0]);
    const pid_t child = ::fork();
    if (child != 0) return child;
    // Only what is safe after a fork of a process with threads: plain writes through the same classes.
    auto file = AtomicFile::create(system_files(), path());
    if (!file.ok()) ::_exit(1);
    for (std::size_t at = 0; at < bytes[1].size(); at += 4096) {
      const std::size_t count = std::min<std::size_t>(4096, bytes[1].size() - at);
      if (!file->append(std::as_bytes(std::span(bytes[1]).subspan(at, count))).ok()) ::_exit(1);
    }
    ::_exit(file->commit().ok() ? 0 : 1);
  };
  const auto begin = std::chrono::steady_clock::now();
  int status = 0;
  ASSERT_GT(::waitpid(start_writer(), &status, 0), 0);
  ASSERT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  const std::chrono::duration<double, std::micro> whole = std::chrono::steady_clock::now() - begin;
  int interrupted = 0;
  for (int round = 0; round < 200; ++round) {
    const pid_t child = start_writer();
    ASSERT_GT(child, 0);
    ::usleep(static_cast<useconds_t>(whole.count() * static_cast<double>(random_() % 1000) / 1000));
    ::kill(child, SIGKILL);
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_FALSE(WIFEXITED(status) && WEXITSTATUS(status) != 0);
    interrupted += WIFSIGNALED(status) ? 1 : 0;
    const std::string left = contents(path());
    ASSERT_TRUE(left == bytes[0] || left == bytes[1]) << "round " << round;
  }
  EXPECT_GT(interrupted, 0);
  ASSERT_TRUE(made(*engine, second).save(path()).ok());
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_), {}), 3) << "what killed writers left is gone";
}

}  // namespace
}  // namespace dalsegno
