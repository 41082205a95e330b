#pragma once

#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "runtime/test_engine.hpp"

// What the tests of guesses have in common.
namespace dalsegno::testing {

using Tokens = std::vector<TokenId>;

// Counts what comes with each position.
class Witness final : public Recorder {
 public:
  using Recorder::Recorder;
  void on_hidden(std::span<const float> hidden) override { hidden_.emplace_back(hidden.begin(), hidden.end()); }
  void on_drafted(int proposed, int accepted) override {
    EXPECT_LE(accepted, proposed);
    proposed_ += proposed;
    accepted_ += accepted;
  }
  [[nodiscard]] const std::vector<std::vector<float>>& hidden() const { return hidden_; }
  [[nodiscard]] int proposed() const { return proposed_; }
  [[nodiscard]] int accepted() const { return accepted_; }

 private:
  std::vector<std::vector<float>> hidden_;
  int proposed_ = 0;
  int accepted_ = 0;
};

inline Tokens joined(const Tokens& a, const Tokens& b) {
  Tokens both = a;
  both.insert(both.end(), b.begin(), b.end());
  return both;
}

}  // namespace dalsegno::testing
