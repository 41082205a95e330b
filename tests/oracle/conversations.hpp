#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cache/block_table.hpp"
#include "oracle/branches.hpp"
#include "oracle/engines.hpp"
#include "oracle/reference.hpp"

namespace dalsegno::oracle {

// Random conversation trees on one kind of engine, which reuses all it can and forgets what it must. A tree is a root
// prompt and what grows from it: rounds of requests that go on from what was said in this tree or an earlier one,
// leave it half-way or change a token of it, some of them cancelled; and forked and rewound sequences in between.
class Conversations {
 public:
  Conversations(const Setup& setup, std::uint32_t seed, Counts& counts);
  ~Conversations();

  // Empty, or what went wrong. The logits of a tree are judged while the next one grows.
  std::string tree();
  std::string judge_rest() { return reference_.judge_rest(); }

  [[nodiscard]] const Setup& setup() const { return setup_; }
  [[nodiscard]] std::uint64_t steps() const { return steps_; }  // requests, and operations on branches
  [[nodiscard]] std::uint64_t compared() const { return reference_.compared(); }
  [[nodiscard]] std::uint64_t computed() const { return reference_.computed(); }
  // Tokens that the draft model guessed, if there is one.
  [[nodiscard]] std::uint64_t drafted();
  // What the cache itself counted.
  [[nodiscard]] CacheStats stats();

 private:
  class Follower;

  Tokens tail(int count);
  Tokens branch();
  void remember(Tokens tokens);
  std::string disturb();
  void set_room(KvCache& cache);
  void junk(KvCache& cache);
  std::string batch();
  std::string take(const Follower& follower, Result<FinishReason> end);
  std::string invariants();
  std::string audit();

  const Setup setup_;
  Random random_;
  Counts& counts_;
  const std::unique_ptr<LocalEngine> engine_;
  Reference reference_;
  Branches branches_;
  BlockTable ballast_;
  std::vector<Tokens> history_;
  std::vector<Seen> seen_;
  bool few_tokens_ = false;
  std::uint64_t steps_ = 0;
};

}  // namespace dalsegno::oracle
