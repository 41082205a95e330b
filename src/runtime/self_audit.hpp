#pragma once

#include <cstdint>
#include <random>

#include "backend/backend.hpp"
#include "cache/kv_cache.hpp"
#include "dalsegno/engine.hpp"
#include "model/model.hpp"

namespace dalsegno {

// Computes sampled blocks of the cache again, each from the cached blocks before it, and compares the bytes. A block
// that differs (memory that failed, a bug) puts its namespace into quarantine: nothing of it is reused again.
// As every block is compared against those it was computed from, a damaged one is found wherever it stands.
// Threads: engine thread only, between steps.
class SelfAudit {
 public:
  // share: of the blocks computed, how many are audited; 0: none. Requires: all outlive it.
  SelfAudit(KvCache& cache, Model& model, Backend& backend, double share)
      : cache_(cache), model_(model), backend_(backend), share_(share) {}

  // So many blocks' worth of tokens were computed for requests.
  void earn(int tokens);
  // True while some of what was computed is to be audited.
  [[nodiscard]] bool is_due() const { return credit_ >= 1; }
  // Audits one block that the cache holds; counts it as skipped where that takes room or a window it has not got.
  // Cost: a step of one block's tokens.
  void audit_one();

  [[nodiscard]] const AuditReport& report() const { return report_; }

 private:
  void audit(const KvCache::Sample& sample);
  void compare(const KvCache::Sample& sample, const KvView& computed);

  // Constant after construction.
  KvCache& cache_;
  Model& model_;
  Backend& backend_;
  const double share_;

  double credit_ = 0;  // blocks
  std::mt19937_64 random_{0x5e1fa0d17};
  AuditReport report_;
};

}  // namespace dalsegno
