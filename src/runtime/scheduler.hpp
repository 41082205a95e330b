#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "backend/backend.hpp"
#include "cache/block_table.hpp"
#include "cache/kv_cache.hpp"
#include "model/model.hpp"
#include "runtime/drafter.hpp"
#include "runtime/fair_order.hpp"
#include "runtime/held_tables.hpp"
#include "runtime/process_memory.hpp"
#include "runtime/request.hpp"
#include "runtime/self_audit.hpp"
#include "runtime/step_cost.hpp"
#include "tensor/numerics_key.hpp"

namespace dalsegno {

// One sequence to run.
struct Work {
  std::shared_ptr<Request> request;
  std::vector<TokenId> tokens;  // the prompt; never empty
  int first_logit = 0;          // logits are wanted from this position on; no reuse reaches beyond it
  int chunk = 512;              // most prompt tokens per step
  bool reuse = true;
  std::string salt = {};  // of its namespace
  Retention retention = {};
  // Numbers of held tables; 0: none.
  std::uint64_t from = 0;  // it begins with this one's first from_common tokens, if no more is cached
  int from_common = 0;
  std::uint64_t hold = 0;  // what it has computed at its end, unless that is an error or it was cancelled, is held
  HeldTables::Keep keep = HeldTables::Keep::pinned;
  Scheduling scheduling = {};
  std::shared_ptr<Drafter> drafter = {};  // of this sequence alone; null: no guesses
  int most_reply = 0;                     // tokens that a reply may have, so that no guess goes beyond; 0: unknown
  FairOrder::Clock::time_point submitted = {};  // by submit()
};

// Owns the engine thread: admits work, composes steps of all running sequences, runs them, and
// keeps the cache's tables. The only caller of model and cache.
// Requests are admitted, and their prompts computed, in the order of FairOrder. Whoever's turn it is waits for room
// without being overtaken, but takes that of less urgent ones.
// A sequence that cannot grow preempts the least urgent one, of those the youngest, which gives its blocks to the index
// and later resumes with the same bits. One that is alone waits for other engines to give up what they cache or run,
// holding nothing itself; if even all of that were too little, it ends: with an error before its first token, then
// with `length`.
// While replies are under way, a step takes no more of the waiting prompts than about step_seconds' worth, by what such
// steps took lately, but a block at least.
// A step that only continues replies may compute guesses of what they will say as well (Drafter), in rows and free
// pages that nothing else wants. The logits of a guess are shown to the request only if it proved right, and nothing is
// committed of one that did not, so all that anyone sees is as without.
// Single flight: a request whose next missing blocks a running one of the same namespace is going to compute stands
// aside until they are there, or that one has ended; then it is admitted like any other, so that another takes over.
// Threads: submit() and on_engine_thread() from any; everything else is the engine thread's.
class Scheduler {
 public:
  struct Parts {
    Model* model = nullptr;
    Backend* backend = nullptr;
    KvCache* cache = nullptr;
    NumericsKey key;
    int max_rows = 0;  // of one step
    int context = 0;   // most tokens of one sequence
    ProcessMemory* memory = nullptr;
    const void* holder = nullptr;    // by which `memory` knows this engine
    double audit_share = 0;          // see SelfAudit
    double step_seconds = 0.05;      // that chunks of prompts may add to a step with tokens of replies
    StepDrafter* drafter = nullptr;  // beside those of the sequences; null: none
  };
  explicit Scheduler(const Parts& parts);
  ~Scheduler();  // cancels what is left

  // All of them enter the queue together, so that their first step is a common one if they fit.
  void submit(std::vector<Work> work);
  // Runs `call` between two steps and waits for it. Requires: not called on the engine thread.
  void on_engine_thread(const std::function<void(KvCache&)>& call);
  // The same without waiting. If the scheduler ends before, `call` is destroyed instead.
  void post(std::function<void(KvCache&)> call);
  // Audits so many blocks between two steps.
  AuditReport audit(int blocks);
  // Runs `call` as on_engine_thread() does.
  void with_held(const std::function<void(HeldTables&)>& call);
  void release(std::uint64_t held);
  // Holds what a request has computed so far: the tokens. Of one that waits, what it would reuse.
  // Errors: not_found (it has ended), and as HeldTables.
  Result<std::vector<TokenId>> hold_running(std::uint64_t id, const Request& request);
  // What a request with these tokens would reuse if it were admitted now.
  Admission preview(std::span<const TokenId> tokens, int first_logit, const std::string& salt);
  CacheReport cache_report();
  // How many audits put a namespace into quarantine.
  [[nodiscard]] std::uint64_t quarantines() const { return quarantines_; }
  // How often a sequence had to give way to others.
  [[nodiscard]] std::uint64_t preemptions() const { return preemptions_; }
  [[nodiscard]] const NumericsKey& key() const { return parts_.key; }
  [[nodiscard]] Namespace name_space(const std::string& salt) const { return {parts_.key, salt}; }

 private:
  struct Sequence {
    Work work;
    FairOrder::Claim claim;
    std::optional<FairOrder::Clock::time_point> deadline;
    BlockTable table;
    int prompt_tokens = 0;
    int next_logit = 0;
    bool admitted_before = false;
    bool from_given = false;  // it began with the table that the work continues
    // While it stands aside: for whom, and until how many tokens of that one are there.
    const Sequence* leader = nullptr;
    int awaits = 0;
    int asks = 0;  // how often other engines were asked for memory since it last had room
    // Of the step being composed.
    int rows = 0;  // guesses included
    int first_row = 0;
    std::vector<TokenId> guesses;  // of the last rows
    int known = 0;                 // rows whose tokens are known to be the sequence's: the first ones
    bool held = false;             // until its reader has caught up
    bool finished = false;
    Result<FinishReason> outcome = FinishReason::stop;

    [[nodiscard]] int left() const { return static_cast<int>(work.tokens.size()) - table.tokens(); }
    [[nodiscard]] bool has_prompt_left() const { return left() > 1 && reply_rows() == 0; }
    // Its last token, and where that is a reply's and some were forced, those before it.
    [[nodiscard]] int reply_rows() const {
      return left() == 1 || (table.tokens() >= prompt_tokens && left() <= 1 + kMostForced) ? left() : 0;
    }
  };
  using SequencePtr = std::unique_ptr<Sequence>;

  void run();
  bool wait_for_work();
  void audit_one();
  void wake();
  [[nodiscard]] bool has_work() const { return !waiting_.empty() || !running_.empty() || !following_.empty(); }
  void begin_use();
  void end_use();
  void enqueue(Work work);
  void drop_ended();
  [[nodiscard]] std::optional<FairOrder::Clock::time_point> next_deadline() const;
  void admit();
  bool admit_one(SequencePtr& sequence);
  bool preempt_for(const Sequence& urgent);
  bool follows(Sequence& sequence);
  void leave_leader(const Sequence& leader);
  void recall_followers();
  void measure(double seconds);
  void step();
  void compose();
  Sequence* next_prompt();
  [[nodiscard]] int beside_replies() const;
  bool grow(Sequence& sequence, int rows);
  bool may_wait_for_others(Sequence& sequence, int more, int rows);
  void give_up(Sequence& sequence, Error why);
  void preempt(Sequence& sequence);
  void take(Sequence& sequence, int rows);
  void guess();
  Drafter::Question question(Sequence& sequence, int rows, const Drafter::Step& step) const;
  void take_guesses(Sequence& sequence, std::vector<TokenId> guesses);
  void add_rows(Sequence& sequence);
  bool is_known(Sequence& sequence, int row) const;
  void conclude(Sequence& sequence);
  void prepare(int index, std::span<const float> logits);
  [[nodiscard]] const char* failure(const Sequence& sequence) const;
  void deliver(int index, std::span<const float> logits, std::span<const float> hidden);
  void settle();
  void finish(Sequence& sequence);
  void hold(Sequence& sequence);
  KvCache::Opened open(Sequence& sequence, int limit);
  void count(const KvCache::Opened& opened, int missing, bool from_given);

  // Constant after construction.
  const Parts parts_;

  // Guarded by mutex_.
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Work> incoming_;
  std::vector<std::function<void(KvCache&)>> calls_;
  bool woken_ = false;  // a request may want more again
  bool stopping_ = false;

  // Engine thread only.
  SelfAudit audit_;
  FairOrder order_;
  std::vector<const FairOrder::Claim*> claims_;  // among which order_ chooses
  std::deque<SequencePtr> waiting_;
  std::deque<SequencePtr> following_;  // those that stand aside
  std::vector<SequencePtr> running_;   // in a step: most urgent first, then oldest
  HeldTables held_;
  CacheReport counts_;              // of requests alone
  ProcessMemory::Use use_;          // while there is a sequence
  std::uint64_t kept_ = 0;          // that the others know of; see ProcessMemory::set_kept()
  double token_seconds_ = 0;        // of a prompt token, lately
  double chunk_token_seconds_ = 0;  // the same in steps that continue replies as well, which it is charged with
  StepCost step_cost_;
  // Of the step being composed.
  int step_rows_ = 0;
  int reply_rows_ = 0;  // next tokens of replies
  int guesses_ = 0;
  bool all_wait_ = false;          // for those who read their replies
  bool room_changed_ = true;       // something ended since admission last failed
  bool waits_for_others_ = false;  // nothing runs here, and other engines hold the memory that is wanted
  std::weak_ptr<int> unanswered_;  // what they were last asked; expired when all have answered
  std::vector<TokenId> step_tokens_;
  std::vector<StepSequence> step_sequences_;
  std::vector<std::int32_t> logit_rows_;
  std::vector<Sequence*> row_owner_;  // [rows]
  std::vector<Sequence*> in_step_;
  std::vector<Sequence*> guessing_;        // those that may have guesses
  std::vector<StepDrafter::Asked> asked_;  // and theirs

  std::atomic<std::uint64_t> preemptions_{0};
  std::atomic<std::uint64_t> quarantines_{0};

  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace dalsegno
