#include "runtime/fair_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

namespace dalsegno {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Time = FairOrder::Clock::time_point;

// Requests that wait, by name, and whoever serves them.
class Queue {
 public:
  Time now{seconds(1000)};
  FairOrder order;

  void enter(const std::string& name, const std::string& tenant, int urgency = 0, std::optional<Time> deadline = {}) {
    waiting_.emplace_back(name, order.enter(tenant, urgency, deadline, now));
  }
  FairOrder::Claim& claim(const std::string& name) {
    return std::ranges::find(waiting_, name, &Waiting::first)->second;
  }
  [[nodiscard]] bool is_empty() const { return waiting_.empty(); }
  [[nodiscard]] std::string first() const {
    const std::size_t at = index();
    return at < waiting_.size() ? waiting_[at].first : "nobody";
  }
  // Gives the first so many tokens and lets it go.
  std::string serve(int tokens) {
    const std::size_t at = index();
    std::string name = waiting_[at].first;
    order.charge(waiting_[at].second, tokens, now);
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(at));
    return name;
  }

 private:
  using Waiting = std::pair<std::string, FairOrder::Claim>;
  [[nodiscard]] std::size_t index() const {
    std::vector<const FairOrder::Claim*> claims;
    for (const auto& each : waiting_) claims.push_back(&each.second);
    return FairOrder::first(claims);
  }
  std::vector<Waiting> waiting_;
};

TEST(FairOrder, OfEqualsWhoCameFirstGoesFirst) {
  Queue queue;
  EXPECT_EQ(queue.first(), "nobody");
  for (const char* name : {"a", "b", "c"}) queue.enter(name, "");
  for (const char* name : {"a", "b", "c"}) EXPECT_EQ(queue.serve(100), name);
  EXPECT_TRUE(queue.is_empty());
}

TEST(FairOrder, TheMoreUrgentGoFirstWhateverElse) {
  Queue queue;
  queue.enter("hurried", "", -1, queue.now + milliseconds(1));
  queue.enter("plain", "");
  queue.enter("urgent", "greedy", 3);
  queue.order.charge(queue.claim("urgent"), 1 << 20, queue.now);
  for (const char* name : {"urgent", "plain", "hurried"}) EXPECT_EQ(queue.serve(1), name);
}

TEST(FairOrder, NearerDeadlinesGoFirstAndNoneIsOneFarAway) {
  Queue queue;
  queue.enter("none", "");
  queue.enter("far", "", 0, queue.now + seconds(20));
  queue.enter("near", "other", 0, queue.now + seconds(2));
  queue.enter("very far", "", 0, queue.now + seconds(500));
  for (const char* name : {"near", "far", "none", "very far"}) EXPECT_EQ(queue.serve(1), name);
}

TEST(FairOrder, EmptyPlacesDoNotCount) {
  FairOrder order;
  const auto claim = order.enter("", 0, {}, Time{});
  EXPECT_EQ(FairOrder::first(std::vector<const FairOrder::Claim*>{nullptr, &claim, nullptr}), 1U);
  EXPECT_EQ(FairOrder::first(std::vector<const FairOrder::Claim*>{nullptr, nullptr}), 2U);
}

TEST(FairOrder, ATenantWithManyRequestsDoesNotDelayAnothersSingleOneByAllOfThem) {
  for (const bool hurried : {false, true}) {
    Queue queue;
    const auto deadline = hurried ? std::optional(queue.now + seconds(1)) : std::nullopt;
    for (int i = 0; i < 200; ++i) queue.enter("many", "greedy", 0, deadline);
    queue.enter("one", "modest");
    int before = 0;
    while (queue.serve(500) != "one") ++before;
    EXPECT_LE(before * 500, FairOrder::kQuantum + 500) << hurried;
  }
}

TEST(FairOrder, WhoComesWhileAnotherWasServedLongGoesFirstAndThenShares) {
  Queue queue;
  for (int i = 0; i < 300; ++i) queue.enter("old", "old");
  for (int i = 0; i < 100; ++i) queue.serve(500);
  for (int i = 0; i < 100; ++i) queue.enter("new", "new");
  EXPECT_EQ(queue.first(), "new");
  std::map<std::string, int> served;
  int at_once = 0;
  for (int i = 0; i < 60; ++i) {
    const std::string name = queue.serve(500);
    at_once += name == "new" && served["old"] == 0 ? 1 : 0;
    ++served[name];
  }
  EXPECT_LE(at_once * 500, FairOrder::kCredit + 500) << "its credit is bounded";
  EXPECT_NEAR(served["new"], 30, 4);
}

TEST(FairOrder, ManyTenantsGetEqualSharesWhateverTheSizesOfTheirRequests) {
  Queue queue;
  std::map<std::string, int> sizes{{"a", 20}, {"b", 100}, {"c", 700}};
  std::map<std::string, int> served;
  for (const auto& [name, size] : sizes) queue.enter(name, name);
  for (int i = 0; i < 5000; ++i) {
    const std::string name = queue.first();
    queue.serve(sizes[name]);
    queue.enter(name, name);
    served[name] += sizes[name];
  }
  for (const auto& [name, tokens] : served) EXPECT_NEAR(tokens, served["a"], 2 * FairOrder::kQuantum) << name;
}

// Also if those who overtake it are always somebody new, hurried, and more than can be served.
TEST(FairOrder, NobodyStarves) {
  Queue queue;
  queue.enter("warm", "greedy");
  queue.order.charge(queue.claim("warm"), 1 << 20, queue.now);
  queue.enter("patient", "greedy");
  int newcomers = 0;
  int patient = 0;
  for (int i = 0; i < 5000; ++i) {
    for (int each = 0; each < 2; ++each) {
      queue.enter("new", "tenant " + std::to_string(++newcomers), 0, queue.now + seconds(5));
    }
    patient += queue.serve(300) == "new" ? 0 : 1;
    if (patient == 2) return;
    queue.now += milliseconds(500);
  }
  FAIL() << patient << " of 2 were served";
}

TEST(FairOrder, WhoIsWaitedForBecomesAsUrgent) {
  Queue queue;
  queue.enter("other", "", 1);
  queue.enter("leader", "");
  queue.enter("follower", "", 2, queue.now + seconds(1));
  queue.claim("leader").lend(queue.claim("follower"));
  EXPECT_TRUE(queue.claim("leader").outlasts(queue.claim("other")));
  for (const char* name : {"leader", "follower", "other"}) EXPECT_EQ(queue.serve(1), name);
}

TEST(FairOrder, TheLessUrgentGivesWayThenTheYounger) {
  Queue queue;
  queue.enter("old", "");
  queue.enter("young", "");
  queue.enter("urgent", "", 1);
  EXPECT_TRUE(queue.claim("old").outlasts(queue.claim("young")));
  EXPECT_FALSE(queue.claim("young").outlasts(queue.claim("old")));
  EXPECT_TRUE(queue.claim("urgent").outlasts(queue.claim("old")));
}

TEST(FairOrder, TenantsThatWereServedLongAgoAreForgotten) {
  Queue queue;
  for (int i = 0; i < 50; ++i) {
    queue.enter("a", "tenant " + std::to_string(i));
    queue.serve(1000);
  }
  queue.enter("stays", "stays");
  EXPECT_EQ(queue.order.tenants(), 51U);
  queue.now += 20 * FairOrder::kHalfLife;
  queue.enter("b", "new");
  EXPECT_EQ(queue.order.tenants(), 2U);
}

}  // namespace
}  // namespace dalsegno
