#include "runtime/draft_runs.hpp"

#include <algorithm>

namespace dalsegno {
namespace {

constexpr std::size_t kSlots = 256;  // at first

int common_end(std::span<const TokenId> tokens, std::size_t a, std::size_t b) {
  const std::size_t most = std::min(std::min(a, b), static_cast<std::size_t>(DraftRuns::kMost));
  std::size_t length = 0;
  while (length < most && tokens[a - 1 - length] == tokens[b - 1 - length]) ++length;
  return static_cast<int>(length);
}

}  // namespace

std::size_t DraftRuns::slot(std::span<const TokenId> tokens, std::size_t end) const {
  std::uint64_t hash = 0;
  for (std::size_t i = end - kLeast; i < end; ++i) {
    hash = (hash ^ static_cast<std::uint32_t>(tokens[i])) * 0x9E3779B97F4A7C15U;
  }
  return static_cast<std::size_t>(hash >> 32) & (latest_.size() - 1);
}

void DraftRuns::add(std::span<const TokenId> tokens, std::size_t end) {
  if (end < kLeast) {
    before_.push_back(kNone);
    return;
  }
  std::int32_t& latest = latest_[slot(tokens, end)];
  before_.push_back(latest);
  latest = static_cast<std::int32_t>(end);
}

void DraftRuns::grow(std::span<const TokenId> tokens) {
  latest_.assign(std::max(kSlots, 2 * latest_.size()), kNone);
  const std::size_t known = before_.size();
  before_.clear();
  for (std::size_t end = 0; end < known; ++end) add(tokens, end);
}

std::optional<DraftRuns::Run> DraftRuns::find(std::span<const TokenId> tokens) {
  // The sequence's end itself is entered by the next call, so that no run is its own.
  const std::size_t end = tokens.size();
  while (before_.size() < end) {
    if (before_.size() >= latest_.size()) grow(tokens);
    add(tokens, before_.size());
  }
  if (end < kLeast || latest_.empty()) return std::nullopt;
  Run best;
  std::int32_t at = latest_[slot(tokens, end)];
  for (int tries = kTries; at != kNone && tries > 0; --tries) {
    const int length = common_end(tokens, static_cast<std::size_t>(at), end);
    if (length > best.length) best = {at, length};
    at = before_[static_cast<std::size_t>(at)];
  }
  return best.length < kLeast ? std::nullopt : std::optional(best);
}

}  // namespace dalsegno
