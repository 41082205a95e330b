#include "dalsegno/conversations.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "runtime/session_test_support.hpp"

namespace dalsegno {
namespace {

using namespace dalsegno::testing;

class ConversationsTest : public ::testing::Test {
 protected:
  ConversationsTest() { std::filesystem::remove_all(folder_); }
  ~ConversationsTest() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<Conversations> open(Engine& engine, ConversationOptions options = {}) const {
    options.folder = folder_.string();
    auto store = Conversations::open(engine, options);
    EXPECT_TRUE(store.ok());
    return store.ok() ? std::move(store).value() : nullptr;
  }
  static Conversations::Lease use(Conversations& store, const std::string& id, const SessionOptions& options = {}) {
    auto lease = store.use(id, options);
    EXPECT_TRUE(lease.ok()) << (lease.ok() ? "" : lease.error().message);
    return std::move(lease).value();
  }
  [[nodiscard]] std::ptrdiff_t files() const { return std::distance(std::filesystem::directory_iterator(folder_), {}); }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() /
      fmt::format("dalsegno_{}_{}", ::getpid(), ::testing::UnitTest::GetInstance()->current_test_info()->name());
};

TEST_F(ConversationsTest, AreFoundAgainInMemoryAndAfterARestart) {
  const SessionOptions rhyme{.instructions = "Rhyme."};
  Reply next;
  {
    const auto engine = open_chat_engine();
    const auto store = open(*engine);
    auto first = use(*store, "a", rhyme);
    EXPECT_EQ(first.from(), ConversationFrom::created);
    turn(first.session(), "One?", "Won.");
    ASSERT_TRUE(first.close().ok());
    auto again = use(*store, "a", rhyme);
    EXPECT_EQ(again.from(), ConversationFrom::memory);
    EXPECT_EQ(again.session().turns(), 1);
    ASSERT_TRUE(again.close().ok());
    next = turn(use(*store, "a", rhyme).session(), "Two?", "Too.");  // in memory alone
  }
  const auto engine = open_chat_engine();
  const auto store = open(*engine);
  auto restarted = use(*store, "a", rhyme);
  EXPECT_EQ(restarted.from(), ConversationFrom::disk);
  EXPECT_EQ(restarted.session().turns(), 1);
  const Reply went_on = turn(restarted.session(), "Two?", "Too.");
  EXPECT_EQ(went_on.prompt_ids, next.prompt_ids);
  EXPECT_EQ(went_on.usage.reused_tokens, next.usage.reused_tokens);
}

TEST_F(ConversationsTest, AreOthersWithOtherInstructionsToolsOrIds) {
  const auto engine = open_chat_engine();
  const auto store = open(*engine);
  const SessionOptions plain{.instructions = "Rhyme."};
  turn(use(*store, "a", plain).session(), "One?", "Won.");
  EXPECT_EQ(use(*store, "b", plain).from(), ConversationFrom::created);
  EXPECT_EQ(use(*store, "a", {.instructions = "Rhyme!"}).from(), ConversationFrom::created);
  EXPECT_EQ(use(*store, "a", {.instructions = "Rhyme.", .tools = {{.name = "time"}}}).from(),
            ConversationFrom::created);
  EXPECT_EQ(use(*store, "a", plain).from(), ConversationFrom::memory);
  EXPECT_FALSE(store->use("", plain).ok());
}

TEST_F(ConversationsTest, AreUsedByOneAtATime) {
  const auto engine = open_chat_engine();
  const auto store = open(*engine);
  auto lease = use(*store, "a");
  const auto second = store->use("a");
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::invalid_argument);
  EXPECT_TRUE(store->use("b").ok());
  ASSERT_TRUE(lease.close().ok());
  EXPECT_TRUE(store->use("a").ok());
}

TEST_F(ConversationsTest, OnlyTheLatestStay) {
  const auto engine = open_chat_engine();
  const auto store = open(*engine, {.most_in_memory = 2, .most_on_disk = 3});
  for (const char* id : {"a", "b", "c", "d", "e"}) {
    auto lease = use(*store, id);
    turn(lease.session(), "One?", "Won.");
    ASSERT_TRUE(lease.close().ok());
  }
  EXPECT_EQ(files(), 3);
  EXPECT_EQ(use(*store, "e").from(), ConversationFrom::memory);
  EXPECT_EQ(use(*store, "d").from(), ConversationFrom::memory);
  EXPECT_EQ(use(*store, "c").from(), ConversationFrom::disk);
  EXPECT_EQ(use(*store, "a").from(), ConversationFrom::created);
}

TEST_F(ConversationsTest, InvalidatedOnesAreGoneEverywhere) {
  const auto engine = open_chat_engine();
  const auto store = open(*engine);
  for (const char* id : {"a", "b"}) {
    auto lease = use(*store, id);
    turn(lease.session(), "One?", "Won.");
    ASSERT_TRUE(lease.close().ok());
  }
  auto in_use = use(*store, "a", {.instructions = "Rhyme."});
  ASSERT_TRUE(store->invalidate("a").ok());
  turn(in_use.session(), "One?", "Won.");
  ASSERT_TRUE(in_use.close().ok());
  EXPECT_EQ(files(), 1);
  EXPECT_EQ(use(*store, "a").from(), ConversationFrom::created);
  EXPECT_EQ(use(*store, "a", {.instructions = "Rhyme."}).from(), ConversationFrom::created);
  EXPECT_EQ(use(*store, "b").from(), ConversationFrom::memory);
}

TEST_F(ConversationsTest, ADamagedFileIsAMissThatSaysWhy) {
  const auto engine = open_chat_engine();
  const auto store = open(*engine, {.most_in_memory = 0});
  {
    auto lease = use(*store, "a");
    turn(lease.session(), "One?", "Won.");
    ASSERT_TRUE(lease.close().ok());
  }
  const auto file = std::filesystem::directory_iterator(folder_)->path();
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  auto lease = use(*store, "a");
  EXPECT_EQ(lease.from(), ConversationFrom::created);
  EXPECT_THAT(lease.refusal(), ::testing::HasSubstr("cannot be used"));
  turn(lease.session(), "One?", "Won.");
  ASSERT_TRUE(lease.close().ok());
  EXPECT_EQ(use(*store, "a").from(), ConversationFrom::disk);
}

}  // namespace
}  // namespace dalsegno
