#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "dalsegno/result.hpp"

namespace dalsegno {

// How EvictionOrder orders blocks.
struct EvictionPolicy {
  std::string_view name;
  // What it costs to compute a block of so many tokens again, `depth` blocks from the root to its end. All blocks take
  // the same bytes. nullptr: only the last use counts.
  std::uint32_t (*cost)(int depth, int tokens) = nullptr;
  // Blocks that no second request found go first while they are more than this share of all, in 1/1024.
  std::uint32_t fresh_share = 0;
};

[[nodiscard]] std::span<const EvictionPolicy> eviction_policies();
// Errors: invalid_argument.
[[nodiscard]] Result<const EvictionPolicy*> find_eviction_policy(std::string_view name);
inline constexpr std::string_view kDefaultEviction = "value";

}  // namespace dalsegno
