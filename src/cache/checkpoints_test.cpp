#include "cache/checkpoints.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "cache/cache_test_support.hpp"

namespace dalsegno::cache_test {
namespace {

constexpr int kWindow = 512;
constexpr int kStep = 512;

class CheckpointsTest : public testing::Test {
 protected:
  void SetUp() override { make(100'000); }
  void make(std::uint64_t pages) {
    cache_.reset();
    auto cache = KvCache::create({.layout = sliding_layout(kWindow),
                                  .max_bytes = pages * kPage,
                                  .budget = &budget_,
                                  .extent_bytes = 64 * kPage});
    ASSERT_TRUE(cache.ok()) << cache.error().message;
    cache_ = std::move(cache).value();
  }
  void TearDown() override { EXPECT_EQ(cache_->check_invariants(), ""); }

  // A prompt as the scheduler runs it, in steps; its values are checked on the way.
  KvCache::Opened run(const Tokens& tokens) {
    const int size = static_cast<int>(tokens.size());
    KvCache::Opened opened = cache_->open(keyed("a"), tokens, size - 1);
    compute(opened.table, tokens);
    cache_->close(std::move(opened.table));
    return opened;
  }
  void compute(BlockTable& table, const Tokens& tokens) {
    const int size = static_cast<int>(tokens.size());
    EXPECT_TRUE(cache_->extend(table, size - table.tokens(), std::min(kStep, size - table.tokens())).ok());
    cache_->expect_end(table, size);
    while (table.tokens() < size) {
      const int rows = std::min(kStep, size - table.tokens());
      ASSERT_TRUE(cache_->extend(table, rows, rows).ok());
      const Tokens done(tokens.begin(), tokens.begin() + table.tokens() + rows);
      fill(*cache_, table, "a", done);
      ASSERT_EQ(first_wrong(cache_->view(table), "a", done), -1);
    }
  }
  double window_share() const {
    const CacheStats stats = cache_->stats();
    return static_cast<double>(stats.window_blocks) / static_cast<double>(stats.blocks);
  }

  MemoryBudget budget_{1 << 30};
  std::unique_ptr<KvCache> cache_;
};

TEST_F(CheckpointsTest, EditsOfALongConversationResumeNearbyThoughFewWindowsAreKept) {
  const Tokens conversation = counting(0, 16'000);
  EXPECT_EQ(run(conversation).reused, 0);
  EXPECT_LE(window_share(), 0.3);
  std::mt19937 random(5);
  for (int edit = 0; edit < 20; ++edit) {
    const int depth = 1 + static_cast<int>(random() % 15'999);
    Tokens edited = conversation;
    edited[edited.size() - static_cast<std::size_t>(depth)] = -1 - edit;
    const auto opened = run(edited);
    EXPECT_EQ(opened.at, 16'000 - depth);
    EXPECT_LE(opened.at - opened.reused, std::max(1024, depth)) << "at depth " << depth;
    EXPECT_EQ(opened.stopped, opened.reused < opened.at ? Stopped::window : Stopped::diverged);
    EXPECT_LE(window_share(), 0.4) << "after edit " << edit;
  }
  EXPECT_EQ(cache_->stats().evicted.chosen() + cache_->stats().evicted.checkpoints, 0U);
}

TEST_F(CheckpointsTest, EditsAfterWhichTheConversationIsShortResumeNearbyToo) {
  const Tokens conversation = counting(0, 16'000);
  run(conversation);
  std::mt19937 random(6);
  for (int edit = 0; edit < 20; ++edit) {
    const int depth = 1 + static_cast<int>(random() % 15'999);
    const auto opened =
        run(joined(Tokens(conversation.begin(), conversation.end() - depth), counting(-2000 * (edit + 1), 100)));
    EXPECT_LE(opened.at - opened.reused, std::max(1024, depth)) << "at depth " << depth;
  }
}

TEST_F(CheckpointsTest, APromptIsResumedFromItsEndAndAReplyFromIts) {
  Tokens tokens = counting(0, 3000);
  for (int turn = 0; turn < 6; ++turn) {
    KvCache::Opened opened = cache_->open(keyed("a"), tokens, static_cast<int>(tokens.size()) - 1);
    compute(opened.table, tokens);
    const Tokens prompt = tokens;
    tokens = joined(tokens, counting(100'000 * (turn + 1), 150 + turn));  // the reply, token by token
    for (auto p = prompt.size(); p < tokens.size(); ++p) {
      ASSERT_TRUE(cache_->extend(opened.table, 1).ok());
      fill(*cache_, opened.table, "a", Tokens(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(p) + 1));
    }
    cache_->close(std::move(opened.table));
    const int size = static_cast<int>(prompt.size());
    const auto again = cache_->preview(keyed("a"), prompt, size - 1);
    EXPECT_EQ(again.reused, size - 1) << "the same prompt again";
    const auto next = joined(tokens, {-5, -6});
    EXPECT_EQ(cache_->preview(keyed("a"), next, static_cast<int>(next.size())).reused, static_cast<int>(tokens.size()));
    tokens = joined(tokens, counting(100'000 * (turn + 1) + 50'000, 40));
  }
}

TEST_F(CheckpointsTest, AForkMayBeResumedFromWhereItParted) {
  const Tokens tokens = counting(0, 2005);
  KvCache::Opened opened = cache_->open(keyed("a"), tokens, 2004);
  compute(opened.table, tokens);
  BlockTable copy = cache_->fork(opened.table);
  const Tokens left = joined(tokens, counting(5000, 3000));
  const Tokens right = joined(tokens, counting(9000, 3000));
  compute(opened.table, left);
  compute(copy, right);
  EXPECT_EQ(first_wrong(cache_->view(copy), "a", right), -1);
  cache_->close(std::move(opened.table));
  cache_->close(std::move(copy));
  const auto third = joined(tokens, {-1});
  EXPECT_GE(cache_->preview(keyed("a"), third, 2006).reused, 2000);
}

TEST_F(CheckpointsTest, ABeginningThatManyShareIsComputedTwiceAtMost) {
  const Tokens system = counting(0, 2000);
  for (int i = 0; i < 5; ++i) {
    const auto opened = run(joined(system, counting(10'000 * (i + 1), 3000)));
    EXPECT_EQ(opened.at, i > 0 ? 2000 : 0);
    EXPECT_EQ(opened.reused, i > 1 ? 2000 : opened.reused);
  }
}

TEST_F(CheckpointsTest, RewindingBehindTheWindowGoesOnFromACheckpoint) {
  const Tokens tokens = counting(0, 8000);
  KvCache::Opened opened = cache_->open(keyed("a"), tokens, 7999);
  compute(opened.table, tokens);
  EXPECT_EQ(cache_->rewind(opened.table, 7995), 7995);
  const int kept = cache_->rewind(opened.table, 5000);
  EXPECT_LE(kept, 5000);
  EXPECT_GE(kept, 5000 - 3000);
  EXPECT_EQ(opened.table.tokens(), kept);
  const Tokens other = joined(Tokens(tokens.begin(), tokens.begin() + kept), counting(-4000, 700));
  compute(opened.table, other);
  EXPECT_EQ(first_wrong(cache_->view(opened.table), "a", other), -1);
}

TEST_F(CheckpointsTest, WithLittleRoomOldCheckpointsGoBeforeTheBlocksBelowThem) {
  // Room for the 250 blocks of the conversation, one window to compute in and less than three to keep.
  make(250 + 2 * (33 + 32 + 2) + 2 * 3 * 33);
  const Tokens tokens = counting(0, 4000);
  run(tokens);
  EXPECT_EQ(cache_->stats().evicted.chosen(), 0U);
  KvCache::Preview all = cache_->preview(keyed("a"), tokens, 3999);
  EXPECT_EQ(all.at, 3999);
  EXPECT_EQ(all.reused, 3999);
  run(counting(50'000, 700));
  EXPECT_GT(cache_->stats().evicted.checkpoints, 0U);
  all = cache_->preview(keyed("a"), tokens, 3999);
  EXPECT_GT(all.at, 3000);
}

TEST_F(CheckpointsTest, ASequenceThatIsAloneCanBeAsLongAsPromised) {
  make(400);
  const int most = cache_->most_tokens(kStep);
  EXPECT_GT(most, kWindow);
  run(counting(100'000, 900));
  run(counting(0, most));
  EXPECT_EQ(cache_->preview(keyed("a"), counting(0, most), most - 1).at, most - 1);
}

}  // namespace
}  // namespace dalsegno::cache_test
