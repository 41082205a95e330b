#include <algorithm>
#include <future>
#include <utility>

#include "runtime/scheduler.hpp"

// What other threads ask of the engine thread; it answers between two steps.

namespace dalsegno {

void Scheduler::on_engine_thread(const std::function<void(KvCache&)>& call) {
  std::promise<void> done;
  {
    const std::lock_guard lock(mutex_);
    calls_.emplace_back([&](KvCache& cache) {
      call(cache);
      done.set_value();
    });
  }
  wake_.notify_all();
  done.get_future().wait();
}

void Scheduler::post(std::function<void(KvCache&)> call) {
  {
    const std::lock_guard lock(mutex_);
    calls_.push_back(std::move(call));
  }
  wake_.notify_all();
}

Admission Scheduler::preview(std::span<const TokenId> tokens, int first_logit, const std::string& salt) {
  Admission seen;
  // What the last request left is given up first, if it is to be: an answer must not depend on who is quicker.
  on_engine_thread([&](KvCache&) {
    if (!has_work()) end_use();
  });
  on_engine_thread([&](KvCache& cache) {
    const int limit = std::min(static_cast<int>(tokens.size()) - 1, first_logit);
    const KvCache::Preview preview = cache.preview(name_space(salt), tokens, limit);
    seen = {preview.reused, limit == 0 ? Stopped::cold : preview.stopped, preview.at, token_seconds_};
  });
  return seen;
}

void Scheduler::with_held(const std::function<void(HeldTables&)>& call) {
  on_engine_thread([&](KvCache&) { call(held_); });
}

void Scheduler::release(std::uint64_t held) {
  post([this, held](KvCache&) { held_.release(held); });
}

Result<std::vector<TokenId>> Scheduler::hold_running(std::uint64_t id, const Request& request) {
  Result<std::vector<TokenId>> tokens = Error{ErrorCode::not_found, "the request has ended"};
  const auto keep = [&](const Sequence& sequence, Result<int> held) {
    if (held.ok()) {
      const auto begin = sequence.work.tokens.begin();
      tokens = std::vector<TokenId>(begin, begin + held.value());
    } else {
      tokens = std::move(held).error();
    }
  };
  on_engine_thread([&](KvCache&) {
    for (SequencePtr& sequence : running_) {
      if (sequence->work.request.get() == &request) {
        keep(*sequence, held_.hold_fork(id, sequence->table, sequence->table.tokens()));
      }
    }
    for (const auto* queue : {&waiting_, &following_}) {
      for (const SequencePtr& sequence : *queue) {
        if (sequence->work.request.get() != &request) continue;
        KvCache::Opened opened = open(*sequence, static_cast<int>(sequence->work.tokens.size()));
        const int size = opened.table.tokens();
        const Result<void> held = held_.hold(id, std::move(opened.table));
        keep(*sequence, held.ok() ? Result<int>(size) : Result<int>(held.error()));
      }
    }
  });
  return tokens;
}

void Scheduler::audit_one() {
  audit_.audit_one();
  quarantines_ = audit_.report().mismatched;
}

AuditReport Scheduler::audit(int blocks) {
  AuditReport report;
  on_engine_thread([&](KvCache&) {
    for (int i = 0; i < blocks; ++i) audit_one();
    report = audit_.report();
  });
  return report;
}

CacheReport Scheduler::cache_report() {
  CacheReport report;
  on_engine_thread([&](KvCache& cache) {
    report = counts_;
    report.preemptions = preemptions_;
    const CacheStats stats = cache.stats();
    const std::uint64_t page = cache.page_stride();
    report.evicted = stats.evicted;
    report.unused_for = stats.unused_for;
    report.blocks = stats.blocks;
    report.window_blocks = stats.window_blocks;
    report.checkpoints = stats.checkpoints;
    report.kv_cached = stats.pages_evictable * page;
    report.kv_in_use = (stats.pages_used - stats.pages_evictable) * page;
    report.kv_pinned = stats.pages_pinned * page;
    report.kv_free = stats.pages_free * page;
    report.index = stats.index_bytes;
  });
  return report;
}

}  // namespace dalsegno
