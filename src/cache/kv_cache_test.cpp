#include "cache/kv_cache.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "cache/cache_test_support.hpp"

namespace dalsegno::cache_test {
namespace {

class KvCacheTest : public testing::Test {
 protected:
  void SetUp() override { make(1000); }
  void make(std::uint64_t pages, std::uint64_t extent_pages = 8) {
    create({.layout = kLayout, .max_bytes = pages * kPage, .budget = &budget_, .extent_bytes = extent_pages * kPage});
  }
  void create(const KvCacheOptions& options) {
    cache_.reset();
    auto cache = KvCache::create(options);
    ASSERT_TRUE(cache.ok()) << cache.error().message;
    cache_ = std::move(cache).value();
  }
  void TearDown() override { EXPECT_EQ(cache_->check_invariants(), ""); }

  KvCache::Opened open(const Tokens& tokens, const std::string& salt = "a") {
    KvCache::Opened opened = cache_->open(keyed(salt), tokens, static_cast<int>(tokens.size()));
    EXPECT_EQ(cache_->check_invariants(), "");
    EXPECT_EQ(wrong(opened.table, Tokens(tokens.begin(), tokens.begin() + opened.reused), salt), -1);
    return opened;
  }
  void extend_and_fill(BlockTable& table, const Tokens& tokens, const std::string& salt = "a") {
    const auto room = cache_->extend(table, static_cast<int>(tokens.size()) - table.tokens());
    ASSERT_TRUE(room.ok()) << room.error().message;
    fill(*cache_, table, salt, tokens);
    EXPECT_EQ(cache_->check_invariants(), "");
  }
  // A request that computes what is missing and is still running.
  BlockTable running(const Tokens& tokens, const std::string& salt = "a") {
    BlockTable table = open(tokens, salt).table;
    extend_and_fill(table, tokens, salt);
    return table;
  }
  // A request that is over.
  void finished(const Tokens& tokens, const std::string& salt = "a") {
    cache_->close(running(tokens, salt));
    EXPECT_EQ(cache_->check_invariants(), "");
  }
  KvCache::Preview preview(const Tokens& tokens, const std::string& salt = "a") const {
    return cache_->preview(keyed(salt), tokens, static_cast<int>(tokens.size()));
  }
  int wrong(const BlockTable& table, const Tokens& tokens, const std::string& salt = "a") const {
    return first_wrong(cache_->view(table), salt, tokens);
  }

  MemoryBudget budget_{64 << 20};
  MemoryBudget small_{1 << 20};
  std::unique_ptr<KvCache> cache_;
};

TEST_F(KvCacheTest, ReuseIsToTheTokenNotToTheBlock) {
  finished(counting(0, 100));
  for (const int common : {1, 15, 16, 17, 31, 32, 47, 95, 96, 99, 100}) {
    const auto opened = open(joined(counting(0, common), {-1, -2, -3}));
    EXPECT_EQ(opened.reused, common);
    EXPECT_EQ(opened.at, common);
    EXPECT_EQ(opened.stopped, common == 100 ? Stopped::cold : Stopped::diverged);
  }
}

TEST_F(KvCacheTest, ReuseGoesNoFurtherThanTheLimit) {
  finished(counting(0, 64));
  for (const int limit : {0, 1, 16, 33, 63, 64}) {
    const auto opened = cache_->open(keyed("a"), counting(0, 64), limit);
    EXPECT_EQ(opened.reused, limit);
    EXPECT_EQ(opened.stopped, Stopped::end);
    EXPECT_EQ(opened.table.blocks(), (limit + 15) / 16);
  }
}

TEST_F(KvCacheTest, AFullBlockIsVisibleWhileItsSequenceStillRuns) {
  const Tokens tokens = counting(0, 40);
  BlockTable donor = open(tokens).table;
  ASSERT_TRUE(cache_->extend(donor, 40).ok());
  fill(*cache_, donor, "a", counting(0, 15));
  EXPECT_EQ(preview(tokens).reused, 0);
  fill(*cache_, donor, "a", counting(0, 16));
  EXPECT_EQ(preview(tokens).reused, 16);
  fill(*cache_, donor, "a", tokens);
  EXPECT_EQ(open(tokens).reused, 32);
  cache_->close(std::move(donor));
  EXPECT_EQ(open(tokens).reused, 40);
}

TEST_F(KvCacheTest, AFailedSequencePublishesNothingMore) {
  BlockTable failed = running(counting(0, 40));
  cache_->discard(std::move(failed));
  EXPECT_FALSE(failed.is_open());  // NOLINT(bugprone-use-after-move): that it is empty is promised
  EXPECT_EQ(open(counting(0, 40)).reused, 32);
  { const BlockTable dropped = running(counting(0, 45)); }
  EXPECT_EQ(open(counting(0, 45)).reused, 32);
  EXPECT_EQ(cache_->stats().pages_used, 2U);
}

TEST_F(KvCacheTest, APartialTailThatGrowsDoesNotStayTwice) {
  finished(counting(0, 20));
  EXPECT_EQ(cache_->stats().pages_used, 2U);
  finished(counting(0, 25));
  EXPECT_EQ(cache_->stats().pages_used, 2U);
  finished(counting(0, 18));
  EXPECT_EQ(cache_->stats().pages_used, 2U);
  finished(counting(0, 32));
  EXPECT_EQ(cache_->stats().pages_used, 2U);
  EXPECT_EQ(cache_->stats().evicted.chosen(), 0U);
  EXPECT_EQ(preview(counting(0, 40)).reused, 32);
}

TEST_F(KvCacheTest, EachReasonWhyReuseStops) {
  EXPECT_EQ(preview({1, 2}).stopped, Stopped::cold);
  EXPECT_EQ(preview({}).stopped, Stopped::end);
  finished(counting(0, 20));
  EXPECT_EQ(preview(counting(0, 20)).stopped, Stopped::end);
  EXPECT_EQ(preview(counting(0, 30)).stopped, Stopped::cold);
  EXPECT_EQ(preview(counting(0, 30)).at, 20);
  EXPECT_EQ(preview(joined(counting(0, 18), {-1})).stopped, Stopped::diverged);
  EXPECT_EQ(preview(joined(counting(0, 16), {-1})).stopped, Stopped::diverged);
  EXPECT_EQ(preview({-1}).stopped, Stopped::diverged);
  finished(counting(0, 25), "b");
  EXPECT_EQ(preview(counting(0, 30)).stopped, Stopped::name_space);
  EXPECT_EQ(preview(counting(0, 30)).at, 20);
  EXPECT_EQ(preview(counting(0, 30), "b").stopped, Stopped::cold);
  EXPECT_EQ(preview(counting(0, 30), "c").stopped, Stopped::name_space);
  EXPECT_EQ(preview(counting(0, 30), "c").reused, 0);
}

TEST_F(KvCacheTest, NamespacesThatDifferInAnythingShareNothing) {
  finished(counting(0, 32));
  const std::vector<void (*)(NumericsKey&)> changes = {
      [](NumericsKey& key) { key.fingerprint.back() = std::byte{1}; },
      [](NumericsKey& key) { key.activation_bits = 16; },
      [](NumericsKey& key) { key.kv.format = KvFormat::q4; },
      [](NumericsKey& key) { key.kv.group_size = 32; },
      [](NumericsKey& key) { key.kv.max_size = 100; },
      [](NumericsKey& key) { key.kv.keep = 4; },
      [](NumericsKey& key) { ++key.numerics_version; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    Namespace other = keyed("a");
    changes[i](other.key);
    EXPECT_EQ(cache_->open(other, counting(0, 32), 32).reused, 0) << "change " << i;
  }
  Namespace tenant = keyed("a");
  tenant.salt = "another tenant";
  EXPECT_EQ(cache_->open(tenant, counting(0, 32), 32).reused, 0);
  EXPECT_EQ(cache_->preview(tenant, counting(0, 32), 32).stopped, Stopped::cold) << "tenants learn nothing of others";
  EXPECT_EQ(open(counting(0, 32), "").reused, 0);
  EXPECT_EQ(open(counting(0, 32)).reused, 32);
}

TEST_F(KvCacheTest, WhatWasUsedLongestAgoIsForgottenFirst) {
  make(6);
  finished(counting(100, 32));
  finished(counting(200, 32));
  finished(counting(300, 32));
  EXPECT_EQ(open(counting(100, 32)).reused, 32);
  finished(counting(400, 32));
  EXPECT_EQ(preview(counting(100, 32)).reused, 32);
  EXPECT_EQ(preview(counting(200, 32)).reused, 0);
  EXPECT_EQ(preview(counting(200, 32)).stopped, Stopped::evicted);
  EXPECT_EQ(preview(counting(300, 32)).reused, 32);
  finished(counting(500, 16));
  EXPECT_EQ(preview(counting(300, 32)).reused, 16) << "its end goes before its beginning";
  EXPECT_EQ(preview(counting(300, 32)).stopped, Stopped::evicted);
}

TEST_F(KvCacheTest, WhatASequenceHoldsIsNeverEvicted) {
  make(4);
  const BlockTable holder = running(counting(0, 32));
  for (TokenId t = 100; t < 1100; t += 100) finished(counting(t, 32));
  EXPECT_EQ(preview(counting(0, 32)).reused, 32);
  EXPECT_EQ(wrong(holder, counting(0, 32)), -1);
  EXPECT_EQ(cache_->stats().pages_used, 4U);
  EXPECT_EQ(cache_->stats().pages_evictable, 2U);
}

TEST_F(KvCacheTest, WhatCannotFitLeavesTheTableAndTheIndexAlone) {
  make(4);
  finished(counting(100, 32));
  BlockTable table = running(counting(0, 20));
  EXPECT_TRUE(cache_->could_fit(2));
  EXPECT_FALSE(cache_->could_fit(3));
  const auto room = cache_->extend(table, 61);
  ASSERT_FALSE(room.ok());
  EXPECT_EQ(room.error().code, ErrorCode::exhausted);
  EXPECT_NE(room.error().message.find("--memory"), std::string::npos);
  EXPECT_EQ(table.tokens(), 20);
  EXPECT_EQ(table.blocks(), 2);
  EXPECT_EQ(preview(counting(100, 32)).reused, 32);
  EXPECT_EQ(cache_->stats().evicted.chosen(), 0U);
  extend_and_fill(table, counting(0, 48));
  EXPECT_EQ(preview(counting(100, 32)).reused, 16);
  EXPECT_FALSE(cache_->extend(table, 2'000'000'000).ok());
  EXPECT_FALSE(cache_->extend(table, 2'147'483'647).ok());
}

TEST_F(KvCacheTest, WithoutAPageForItAPartialBlockIsLeftOut) {
  make(2);
  finished(counting(0, 20));
  const auto opened = open(counting(0, 19));
  EXPECT_EQ(opened.reused, 16);
  EXPECT_EQ(opened.stopped, Stopped::evicted);
  EXPECT_EQ(preview(counting(0, 20)).reused, 20);
}

TEST_F(KvCacheTest, SequencesThatComputeTheSameBlockEndUpWithOnePage) {
  const Tokens tokens = counting(0, 33);
  BlockTable one = open(tokens).table;
  BlockTable two = open(tokens).table;
  extend_and_fill(one, tokens);
  extend_and_fill(two, tokens);
  EXPECT_EQ(cache_->stats().pages_used, 4U) << "two shared blocks, and each one's own third";
  EXPECT_EQ(cache_->view(one).pages[0][1], cache_->view(two).pages[0][1]);
  EXPECT_NE(cache_->view(one).pages[0][2], cache_->view(two).pages[0][2]);
  EXPECT_EQ(wrong(two, tokens), -1);
}

TEST_F(KvCacheTest, AForkSharesPagesUntilEitherWrites) {
  BlockTable source = running(counting(0, 40));
  ASSERT_TRUE(cache_->extend(source, 100).ok());
  BlockTable copy = cache_->fork(source);
  EXPECT_EQ(cache_->check_invariants(), "");
  EXPECT_EQ(cache_->stats().pages_used, 3U);
  EXPECT_EQ(source.capacity(), 40) << "room is to be made again, since the last page is shared now";
  const Tokens left = joined(counting(0, 40), counting(500, 30));
  const Tokens right = joined(counting(0, 40), counting(600, 3));
  extend_and_fill(copy, right);
  extend_and_fill(source, left);
  EXPECT_EQ(wrong(source, left), -1);
  EXPECT_EQ(wrong(copy, right), -1);
  EXPECT_EQ(cache_->view(source).pages[0][1], cache_->view(copy).pages[0][1]);
  cache_->close(std::move(source));
  cache_->close(std::move(copy));
  EXPECT_EQ(open(left).reused, 70);
  EXPECT_EQ(open(right).reused, 43);
}

TEST_F(KvCacheTest, AForkOutlivesItsSourceAndWhatItsSourcePublished) {
  BlockTable source = running(counting(0, 20));
  BlockTable copy = cache_->fork(source);
  cache_->close(std::move(source));
  finished(counting(0, 28));
  cache_->clear();
  EXPECT_EQ(wrong(copy, counting(0, 20)), -1);
  extend_and_fill(copy, counting(0, 24));
  EXPECT_EQ(wrong(copy, counting(0, 24)), -1);
}

TEST_F(KvCacheTest, RewoundIntoAVisibleBlockASequenceWritesACopy) {
  BlockTable table = running(counting(0, 40));
  cache_->rewind(table, 20);
  EXPECT_EQ(cache_->check_invariants(), "");
  const Tokens other = joined(counting(0, 20), counting(700, 20));
  extend_and_fill(table, other);
  EXPECT_EQ(wrong(table, other), -1);
  cache_->close(std::move(table));
  EXPECT_EQ(open(other).reused, 40);
  EXPECT_EQ(open(counting(0, 40)).reused, 32);
}

TEST_F(KvCacheTest, APrivateSequenceNeitherReadsNorAdds) {
  finished(counting(0, 32));
  const auto before = cache_->stats();
  BlockTable table = cache_->open_private();
  EXPECT_EQ(table.tokens(), 0);
  extend_and_fill(table, counting(0, 50));
  EXPECT_EQ(wrong(table, counting(0, 50)), -1);
  EXPECT_EQ(preview(counting(0, 50)).reused, 32);
  cache_->close(std::move(table));
  EXPECT_EQ(preview(counting(0, 50)).reused, 32);
  EXPECT_EQ(cache_->stats().pages_used, before.pages_used);
}

TEST_F(KvCacheTest, ClearKeepsOnlyWhatRunsAndReturnsEmptyExtents) {
  for (TokenId t = 0; t < 20'000; t += 1000) finished(counting(t, 160));
  BlockTable holder = running(counting(0, 32));
  EXPECT_GE(budget_.used(MemoryKind::kv), 200 * kPage);
  cache_->clear();
  EXPECT_EQ(cache_->stats().pages_used, 2U);
  EXPECT_EQ(cache_->stats().index_nodes, 2U);
  EXPECT_EQ(preview(counting(0, 160)).reused, 32);
  EXPECT_EQ(preview(counting(0, 160)).stopped, Stopped::cold);
  EXPECT_LE(budget_.used(MemoryKind::kv), 2 * 8 * kPage);
  cache_->close(std::move(holder));
  cache_->clear();
  EXPECT_EQ(budget_.used(MemoryKind::kv), 0U);
}

TEST_F(KvCacheTest, AManyBlocksLongSequenceOfOneTokenIsCachedLikeAnyOther) {
  const Tokens tokens(10'000, 7);
  finished(tokens);
  EXPECT_EQ(open(tokens).reused, 10'000);
  EXPECT_EQ(open(Tokens(9'999, 7)).reused, 9'999);
}

// A cache of at most eight pages, for four of which the budget has room.
TEST_F(KvCacheTest, WhatATableLacksIsSaidInBytesOfTheBudget) {
  create({.layout = kLayout, .max_bytes = 8 * kPage, .budget = &small_, .extent_bytes = kPage});
  auto others = small_.reserve(MemoryKind::weights, small_.free_bytes() - 4 * cache_->page_stride() - 5, "others");
  ASSERT_TRUE(others.ok());
  finished(counting(100, 32));
  BlockTable table = running(counting(0, 20));
  const auto lacks = [&](int more) { return cache_->lacks(table, more, more); };
  EXPECT_EQ(lacks(12), 0U) << "its own last block";
  EXPECT_EQ(lacks(13), 0U) << "what is evictable is given up first";
  EXPECT_EQ(lacks(12 + 32), 0U);
  EXPECT_EQ(lacks(12 + 33), cache_->page_stride() - 5);
  EXPECT_EQ(lacks(12 + 96), 4 * cache_->page_stride() - 5);
  EXPECT_EQ(lacks(12 + 97), std::nullopt) << "more than the cache may ever hold";
  EXPECT_EQ(lacks(std::numeric_limits<int>::max()), std::nullopt);
  for (const int more : {12 + 32, 12 + 33}) EXPECT_EQ(cache_->extend(table, more).ok(), lacks(more) == 0U);
  const BlockTable holder = cache_->fork(table);
  EXPECT_EQ(lacks(28), 0U) << "a copy of the shared last block, and one more";
  EXPECT_EQ(lacks(29), cache_->page_stride() - 5);
  others.value() = Reservation();
  EXPECT_EQ(lacks(29), 0U);
  EXPECT_TRUE(cache_->extend(table, 29).ok());
}

TEST_F(KvCacheTest, ATableMayOutliveItsCache) {
  BlockTable table = running(counting(0, 20));
  make(10);
  EXPECT_TRUE(table.is_open());
}

TEST_F(KvCacheTest, ImpossibleOptionsAreSentences) {
  MemoryBudget small(8000);
  const auto refused = [](const KvCacheOptions& options) {
    const auto cache = KvCache::create(options);
    EXPECT_FALSE(cache.ok());
    return cache.ok() ? Error{} : cache.error();
  };
  EXPECT_EQ(refused({.layout = kLayout, .max_bytes = 1 << 20}).code, ErrorCode::invalid_argument);
  EXPECT_EQ(refused({.layout = {}, .max_bytes = 1 << 20, .budget = &budget_}).code, ErrorCode::invalid_argument);
  EXPECT_EQ(refused({.layout = kLayout, .max_bytes = kPage - 1, .budget = &budget_}).code, ErrorCode::exhausted);
  const Error error = refused({.layout = kLayout, .max_bytes = 1 << 20, .budget = &small});
  EXPECT_EQ(error.code, ErrorCode::exhausted);
  EXPECT_NE(error.message.find("--memory"), std::string::npos);
  EXPECT_EQ(small.used(), 0U);
}

TEST_F(KvCacheTest, LimitedByTheProcessBudgetItLeavesRoomForItsOwnIndex) {
  create({.layout = kLayout, .max_bytes = ~0ULL, .budget = &small_, .extent_bytes = 64 * kPage});
  const std::uint64_t pages = cache_->stats().pages_limit;
  EXPECT_GT(pages, 500U);
  EXPECT_TRUE(cache_->could_fit(pages));
  EXPECT_FALSE(cache_->could_fit(pages + 1));
  finished(counting(0, static_cast<int>(pages) * kBlockTokens));
  EXPECT_EQ(cache_->stats().evicted.chosen(), 0U);
  finished(counting(-5000, 100));
  EXPECT_EQ(cache_->stats().evicted.chosen(), 7U);
  EXPECT_LE(small_.used(), small_.limit());
  cache_.reset();
  EXPECT_EQ(small_.used(), 0U);
  make(10);
}

// Pages that lie free are those of an extent of eight that is memory already.
TEST_F(KvCacheTest, RoomForWhatMayProveWrongIsWhatLiesFree) {
  make(24);
  finished(counting(500, 32));                  // two pages that could be evicted
  BlockTable table = running(counting(0, 40));  // three
  ASSERT_TRUE(cache_->extend(table, 1).ok());
  EXPECT_EQ(cache_->extend_into_free(table, 5), 5);
  EXPECT_EQ(table.capacity(), 48);
  EXPECT_EQ(cache_->extend_into_free(table, 20), 20);
  EXPECT_EQ(table.capacity(), 64);
  EXPECT_EQ(cache_->extend_into_free(table, 100), 56);  // three more pages
  EXPECT_EQ(cache_->stats().pages_used, 8U);
  EXPECT_EQ(cache_->stats().pages_free, 0U);
  EXPECT_EQ(cache_->extend_into_free(table, 100), 56);
  fill(*cache_, table, "a", counting(0, 44));
  cache_->give_back_room(table);
  EXPECT_EQ(table.capacity() - table.tokens(), 0);
  EXPECT_EQ(cache_->stats().pages_used, 5U);
  ASSERT_TRUE(cache_->extend(table, 4).ok());
  EXPECT_EQ(cache_->stats().pages_used, 5U);
  EXPECT_EQ(cache_->stats().evicted.chosen(), 0U);
  fill(*cache_, table, "a", counting(0, 48));
  EXPECT_EQ(wrong(table, counting(0, 48)), -1);
}

TEST_F(KvCacheTest, WithinItsLastBlockASequenceKeepsItsRoom) {
  BlockTable table = running(counting(0, 40));
  ASSERT_TRUE(cache_->extend(table, 1).ok());
  EXPECT_EQ(cache_->extend_into_free(table, 8), 8);
  fill(*cache_, table, "a", counting(0, 41));
  cache_->give_back_room(table);
  EXPECT_EQ(table.capacity(), 48);
}

TEST_F(KvCacheTest, WhatOthersHadAfterTheseTokens) {
  finished(counting(0, 90));
  BlockTable table = running(counting(0, 40));
  EXPECT_EQ(cache_->continuation(table, counting(40, 1), 20), counting(41, 20));
  EXPECT_EQ(cache_->continuation(table, counting(40, 30), 50), counting(70, 20));
  EXPECT_EQ(cache_->continuation(table, Tokens{39}, 20), Tokens{});
  const BlockTable other = cache_->open(keyed("b"), counting(0, 40), 40).table;
  EXPECT_EQ(cache_->continuation(other, counting(0, 20), 20), Tokens{});
  const BlockTable alone = cache_->open_private();
  EXPECT_EQ(cache_->continuation(alone, counting(0, 20), 20), Tokens{});
}

}  // namespace
}  // namespace dalsegno::cache_test
