#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "dalsegno/types.hpp"

namespace dalsegno {

// Where the last tokens of a sequence stood in it before. Memory: 8 to 12 bytes a token. Threads: one.
class DraftRuns {
 public:
  static constexpr int kLeast = 2;   // tokens of a run
  static constexpr int kMost = 32;   // of which no more is looked at
  static constexpr int kTries = 16;  // places that are looked at

  struct Run {
    int end = 0;     // what followed it begins here
    int length = 0;  // tokens before `end` that are also the last ones of the sequence
  };
  // The longest run that ends before the sequence does, of the last kTries places where its last kLeast tokens stood;
  // of equally long ones the last. `tokens` begin with those of the calls before.
  // Cost: O(tokens that are new).
  std::optional<Run> find(std::span<const TokenId> tokens);

 private:
  static constexpr std::int32_t kNone = -1;
  void add(std::span<const TokenId> tokens, std::size_t end);
  void grow(std::span<const TokenId> tokens);
  [[nodiscard]] std::size_t slot(std::span<const TokenId> tokens, std::size_t end) const;

  std::vector<std::int32_t> latest_;  // [a power of two]: where tokens of this hash ended last
  std::vector<std::int32_t> before_;  // [places known]: where tokens of the same hash ended before
};

}  // namespace dalsegno
