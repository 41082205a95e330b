#include <gtest/gtest.h>
#include <malloc.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "cache/cache_test_support.hpp"

// What a cache really allocates beside K/V: every allocation of this program is counted.

namespace {

std::atomic<std::int64_t> allocated{0};

void* counted(void* memory) {
  if (memory == nullptr) std::abort();
  allocated += static_cast<std::int64_t>(malloc_usable_size(memory));
  return memory;
}

void give_back(void* memory) {
  allocated -= static_cast<std::int64_t>(malloc_usable_size(memory));
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t bytes) {
  return counted(std::malloc(bytes));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  const auto to = static_cast<std::size_t>(alignment);
  return counted(std::aligned_alloc(to, (bytes + to - 1) / to * to));
}
void operator delete(void* memory) noexcept {
  give_back(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  give_back(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  give_back(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  give_back(memory);
}

namespace dalsegno::cache_test {
namespace {

// SmolLM2-135M in bf16.
constexpr KvLayout kSmolLm2{.format = KvFormat::bf16, .layers = 30, .kv_heads = 3, .head_dim = 64};
static_assert(kSmolLm2.block_bytes() == 23'040 * kBlockTokens);

// Index, pool and tables, once as many blocks are remembered as there are, for prompts of so many tokens each.
void expect_small(int prompt_tokens) {
  SCOPED_TRACE(prompt_tokens);
  constexpr std::uint64_t kBlocks = 200;
  const Tokens all = counting(0, 2 * static_cast<int>(kBlocks) * kBlockTokens);
  const std::int64_t before = allocated;
  MemoryBudget budget(1ULL << 30);
  auto made = KvCache::create({.layout = kSmolLm2,
                               .max_bytes = kBlocks * kSmolLm2.block_bytes(),
                               .budget = &budget,
                               .quota_bytes = kBlocks * kSmolLm2.block_bytes()});
  ASSERT_TRUE(made.ok()) << made.error().message;
  const std::unique_ptr<KvCache> cache = std::move(made).value();
  std::vector<BlockTable> open;
  open.reserve(kBlocks);
  for (int begin = 0; begin < static_cast<int>(all.size()); begin += prompt_tokens) {
    const auto prompt = std::span(all).subspan(static_cast<std::size_t>(begin));
    const auto tokens = prompt.first(std::min(prompt.size(), static_cast<std::size_t>(prompt_tokens)));
    BlockTable table = std::move(cache->open(salted("a"), tokens, 0).table);
    ASSERT_TRUE(cache->extend(table, static_cast<int>(tokens.size())).ok());
    EXPECT_NE(cache->view(table).pages[0], nullptr);
    cache->commit(table, tokens);
    // The second half stays open, with all that tables hold.
    if (begin < static_cast<int>(all.size()) / 2) {
      cache->close(std::move(table));
    } else {
      open.push_back(std::move(table));
    }
  }
  const CacheStats stats = cache->stats();
  EXPECT_EQ(stats.pages_used, kBlocks);
  EXPECT_GE(stats.index_nodes, 2 * kBlocks - 2) << "as many are remembered as there are";
  const std::int64_t metadata = allocated - before;
  EXPECT_GT(metadata, static_cast<std::int64_t>(sizeof(void*) * kBlocks));
  EXPECT_LT(100 * metadata, static_cast<std::int64_t>(stats.pages_used * kSmolLm2.block_bytes()));
  testing::Test::RecordProperty("metadata_bytes_per_block",
                                static_cast<int>(metadata / static_cast<std::int64_t>(kBlocks)));
}

TEST(KvCacheMemory, WhatIsKnownOfBlocksTakesLessThanAHundredthOfTheirKeysAndValues) {
  expect_small(1600);
  expect_small(kBlockTokens);
}

}  // namespace
}  // namespace dalsegno::cache_test
