#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dalsegno/prompt_cache.hpp"
#include "oracle/engines.hpp"
#include "oracle/reference.hpp"

namespace dalsegno::oracle {

// Random traffic on one engine that has too little room for it: up to 32 requests that come one by one or together, at
// any moment of what others compute, are cancelled, preempted, urgent or not, of several tenants; and caches that are
// taken from prompts and from requests on their way, trimmed, saved, loaded again and given to later requests.
class Arrivals {
 public:
  Arrivals(const Setup& setup, std::uint32_t seed, Counts& counts);
  ~Arrivals();

  // One wave of traffic, to its end. Empty, or what went wrong. Its logits are judged while the next one runs.
  std::string run();
  std::string judge_rest() { return reference_.judge_rest(); }

  [[nodiscard]] std::uint64_t requests() const { return requests_; }
  [[nodiscard]] std::uint64_t preemptions() const { return engine_->scheduler().preemptions(); }
  [[nodiscard]] CacheStats stats();
  [[nodiscard]] std::uint64_t compared() const { return reference_.compared(); }

 private:
  class Arrival;

  Tokens tokens(int count);
  Tokens prompt();
  Work arrival();
  std::string happen();
  void keep_cache(Result<PromptCache> cache);
  std::string save_and_load();
  std::string let_time_pass();
  std::string take(Arrival& arrival);
  void set_room(KvCache& cache);
  void set_files_apart();

  Random random_;
  Counts& counts_;
  const std::unique_ptr<LocalEngine> engine_;
  Reference reference_;
  BlockTable ballast_;
  std::uint64_t longest_ = 0;           // pages of the longest request
  std::uint64_t partial_ = 0;           // pages of a block, at most
  std::optional<Reservation> buffers_;  // set apart for files, so that pages do not take all
  const std::filesystem::path file_;
  std::vector<Tokens> history_;
  std::vector<std::shared_ptr<Arrival>> under_way_;
  std::vector<PromptCache> caches_;
  std::vector<Seen> seen_;
  std::uint64_t requests_ = 0;
};

}  // namespace dalsegno::oracle
