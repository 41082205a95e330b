#include "cli/cache_lines.hpp"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "base/memory_budget.hpp"

namespace dalsegno::cli {
namespace {

template <std::size_t Count>
std::string listed(const std::array<std::pair<const char*, std::uint64_t>, Count>& counts) {
  std::string words;
  for (const auto& [word, count] : counts) {
    if (count > 0) words += fmt::format("{}{} {}", words.empty() ? "" : ", ", count, word);
  }
  return words.empty() ? "none" : words;
}

// "at most 16 tokens missing in 3, 32 in 1": where the values of a histogram lie.
std::string spread(const Histogram& histogram) {
  std::string words;
  for (std::size_t bucket = 0; bucket < Histogram::kBuckets; ++bucket) {
    const std::uint64_t count = histogram.buckets.at(bucket);
    if (count == 0) continue;
    const std::uint64_t from = Histogram::from(bucket);
    const std::string range = from < 2 ? fmt::format("{}", from) : fmt::format("{}-{}", from, 2 * from - 1);
    words += fmt::format("{}{}: {}", words.empty() ? "" : ", ", range, count);
  }
  return words;
}

}  // namespace

std::string cache_lines(const CacheReport& report) {
  const ReuseCounts total = report.total();
  std::string lines =
      fmt::format("{} of {} prompt tokens reused in {} request{}\n", total.reused_tokens,
                  total.reused_tokens + total.missing_tokens, total.requests, total.requests == 1 ? "" : "s");
  for (std::size_t cause = 0; cause < kStoppedCount; ++cause) {
    const ReuseCounts& each = report.by_cause.at(cause);
    if (each.requests == 0) continue;
    lines +=
        fmt::format("  stopped: {:<10} {:>6} time{}, {} tokens reused, {} missing\n", name(static_cast<Stopped>(cause)),
                    each.requests, each.requests == 1 ? "" : "s", each.reused_tokens, each.missing_tokens);
  }
  if (total.requests > 0) lines += fmt::format("  missing by request: {}\n", spread(report.missing_tokens));
  const EvictedBlocks& evicted = report.evicted;
  const std::array<std::pair<const char*, std::uint64_t>, 6> causes{{{"for room", evicted.room},
                                                                     {"over their quota", evicted.quota},
                                                                     {"for a memory limit", evicted.limit},
                                                                     {"expired", evicted.expired},
                                                                     {"cleared", evicted.cleared},
                                                                     {"checkpoints", evicted.checkpoints}}};
  lines += fmt::format("evicted blocks: {}\n", listed(causes));
  lines += fmt::format("held: {} block{} of 16 tokens; K/V {} cached, {} in use, {} free; index {}\n", report.blocks,
                       report.blocks == 1 ? "" : "s", human_bytes(report.kv_cached), human_bytes(report.kv_in_use),
                       human_bytes(report.kv_free), human_bytes(report.index));
  return lines;
}

}  // namespace dalsegno::cli
