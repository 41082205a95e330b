#pragma once

#include "oracle/engines.hpp"
#include "runtime/draft_runs.hpp"
#include "runtime/drafter.hpp"

namespace dalsegno::oracle {

// Guesses as many tokens as it likes, whatever they cost: what the cache or the sequence itself had, one of them maybe
// changed, or anything.
class Guesser final : public Drafter {
 public:
  explicit Guesser(std::uint32_t seed) : random_(seed) {}
  Draft draft(const Question& question) override;

 private:
  Random random_;
  DraftRuns runs_;
};

}  // namespace dalsegno::oracle
