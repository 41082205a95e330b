#include <algorithm>

#include "bindings/c/values.hpp"
#include "dalsegno/cache_report.hpp"

namespace {

using dalsegno::CacheReport;
using dalsegno::Histogram;
using dalsegno::Result;

static_assert(DALSEGNO_HISTOGRAM_BUCKETS == Histogram::kBuckets);
static_assert(DALSEGNO_STOPPED_COUNT == dalsegno::kStoppedCount);

dalsegno_histogram plain(const Histogram& histogram) {
  dalsegno_histogram counts{};
  std::ranges::copy(histogram.buckets, counts.buckets);
  counts.count = histogram.count;
  counts.sum = histogram.sum;
  return counts;
}

dalsegno_cache_report plain(const CacheReport& report) {
  dalsegno_cache_report counts{};
  for (std::size_t cause = 0; cause < report.by_cause.size(); ++cause) {
    const dalsegno::ReuseCounts& each = report.by_cause.at(cause);
    counts.by_cause[cause] = {each.requests, each.reused_tokens, each.missing_tokens};
  }
  counts.reused_tokens = plain(report.reused_tokens);
  counts.missing_tokens = plain(report.missing_tokens);
  counts.continued = report.continued;
  counts.waits = report.waits;
  counts.preemptions = report.preemptions;
  counts.evicted_room = report.evicted.room;
  counts.evicted_quota = report.evicted.quota;
  counts.evicted_limit = report.evicted.limit;
  counts.evicted_expired = report.evicted.expired;
  counts.evicted_cleared = report.evicted.cleared;
  counts.evicted_checkpoints = report.evicted.checkpoints;
  counts.unused_for = plain(report.unused_for);
  counts.blocks = report.blocks;
  counts.window_blocks = report.window_blocks;
  counts.checkpoints = report.checkpoints;
  counts.kv_cached = report.kv_cached;
  counts.kv_in_use = report.kv_in_use;
  counts.kv_pinned = report.kv_pinned;
  counts.kv_free = report.kv_free;
  counts.index = report.index;
  return counts;
}

static_assert(DALSEGNO_DRAFT_GUESSES == dalsegno::DraftReport::kMostGuesses);

dalsegno_draft_report plain(const dalsegno::DraftReport& report) {
  dalsegno_draft_report counts{};
  std::ranges::copy(report.proposed, counts.proposed);
  std::ranges::copy(report.accepted, counts.accepted);
  counts.trials = report.trials;
  counts.passes = report.passes;
  counts.read = report.read;
  counts.seconds = report.seconds;
  counts.pass_ms = report.pass_ms;
  counts.pays = report.pays ? 1 : 0;
  return counts;
}

}  // namespace

std::int32_t dalsegno_engine_cache_report(dalsegno_engine* engine, dalsegno_cache_report* out, std::size_t out_size,
                                          dalsegno_error* error) {
  return dalsegno::c::guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(engine);
    DALSEGNO_NEED(out);
    dalsegno::c::write_report(out, out_size, plain(engine->engine->cache_report()));
    return {};
  });
}

std::int32_t dalsegno_engine_draft_report(dalsegno_engine* engine, dalsegno_draft_report* out, std::size_t out_size,
                                          dalsegno_error* error) {
  return dalsegno::c::guarded(error, [&]() -> Result<void> {
    DALSEGNO_NEED(engine);
    DALSEGNO_NEED(out);
    dalsegno::c::write_report(out, out_size, plain(engine->engine->draft_report().value_or(dalsegno::DraftReport())));
    return {};
  });
}
