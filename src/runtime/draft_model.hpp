#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "backend/backend.hpp"
#include "base/memory_budget.hpp"
#include "base/thread_pool.hpp"
#include "cache/kv_cache.hpp"
#include "dalsegno/engine.hpp"
#include "kernels/kernels.hpp"
#include "model/config.hpp"
#include "model/model.hpp"
#include "runtime/drafter.hpp"
#include "runtime/step_cost.hpp"

namespace dalsegno {

// A small model with the vocabulary of the one that it guesses for. A token of a draft is a pass over all sequences
// that want one, between composing the step and running it; a draft is as long as that pays by what passes take and how
// often guesses came true, by their place in the draft. What others were told before costs nothing, so it is preferred.
// A sequence is read by the time that guesses of it would have saved meanwhile, so that a reply which ends early has
// not paid for a long prompt; then, and where guessing does not pay, it gets what DraftLookup guesses.
// Its K/V have a cache of their own, in room that open() sets apart. Whatever it fails at (room, the length of a
// sequence, numbers that overflow) ends its guesses for that sequence and nothing else.
// Threads: drafter_for() any, the rest the engine's.
class DraftModel final : public StepDrafter {
 public:
  struct Parts {
    std::string path;
    const GgufFile* target = nullptr;  // the model that is guessed for; read by open() alone
    int context = 0;                   // most tokens of a sequence
    double step_seconds = 0.05;        // that reading sequences may add to a step
    ThreadPool* pool = nullptr;
    const Kernels* kernels = nullptr;
    MemoryBudget* budget = nullptr;
    std::stop_token cancel{};
  };
  // Errors: of loading, and unsupported (another vocabulary); each says that it is the draft model's.
  // Requires: all parts outlive it.
  static Result<std::unique_ptr<DraftModel>> open(const Parts& parts);

  struct Loaded {
    std::unique_ptr<Model> model;
    ModelConfig config;
    int positions = 0;   // most tokens of a sequence
    int vocabulary = 0;  // tokens that both models have
  };
  static constexpr int kActivationBits = 8;
  // Its part of open() before K/V. Errors: the same.
  static Result<Loaded> load(const std::string& path, const GgufFile& target, int context, Backend& backend);

  ~DraftModel() override;
  DraftModel(const DraftModel&) = delete;
  DraftModel& operator=(const DraftModel&) = delete;

  // Of one sequence, that draft() guesses for. Requires: it is gone before this is.
  [[nodiscard]] std::shared_ptr<Drafter> drafter_for(const GenerateOptions& options);
  void draft(std::span<Asked> asked, const Drafter::Step& step) override;
  // Forgets all K/V, those of running sequences too; with `buffers` also gives back the memory of step buffers.
  void release(bool buffers);
  // From now on drafts have so many tokens, whatever they bring: for tests. 0: as many as pay.
  void guess_always(int tokens) { always_ = tokens; }
  [[nodiscard]] DraftReport report() const { return report_; }
  [[nodiscard]] const KvCache& cache() const { return *cache_; }
  // Weights and buffers.
  [[nodiscard]] std::uint64_t bytes() const { return backend_->weight_bytes() + backend_->work_bytes(); }

 private:
  struct Seat;
  struct Choice {
    Asked* asked = nullptr;
    Seat* seat = nullptr;
    int most = 0;
    int count = 0;  // guesses wanted
    bool is_trial = false;
    bool joins = false;  // has been read, and has room
  };
  // Of a pass: tokens of a sequence, and whether the one after them is guessed.
  struct Part {
    Seat* seat = nullptr;
    std::span<const TokenId> tokens;
    int position = 0;  // of the first
    bool known = true;
    bool guess = false;
  };

  DraftModel(const Parts& parts, std::unique_ptr<Backend> backend, Loaded loaded, Reservation room);
  Result<void> make_cache(const KvCacheOptions& options);
  void consider(Asked& asked);
  void learn(Seat& seat, std::span<const TokenId> tokens);
  void follow(Seat& seat, std::span<const TokenId> tokens);
  void choose(const Drafter::Step& step);
  void try_one_more(const Drafter::Step& step);
  void begin();
  void read(int rows);
  int missing(Seat& seat, std::span<const TokenId> tokens);
  void go_on(const Drafter::Step& step);
  void run();
  bool make_room(Seat& seat, int tokens);
  void put_away(Seat& seat);
  void end(Seat& seat);
  void leave(Seat& seat);
  [[nodiscard]] double pass_seconds(int rows);

  // Constant after construction.
  const double step_seconds_;
  const int positions_;
  const int vocabulary_;
  const Namespace name_space_;
  const std::unique_ptr<Backend> backend_;
  const std::unique_ptr<Model> model_;
  const Reservation room_;  // for all that the cache has
  MemoryBudget kv_budget_;  // of so much
  std::unique_ptr<KvCache> cache_;

  // Engine thread only.
  std::vector<Seat*> seats_;
  std::uint64_t turn_ = 0;
  int always_ = 0;
  std::array<double, DraftReport::kMostGuesses> right_;  // share of guesses that came true, lately, by their place
  StepCost pass_cost_;                                   // by rows
  std::vector<double> step_then_;  // [rows]: what a step took when such a pass was timed; 0: unknown
  double step_now_ = 0;
  double token_seconds_ = 0;  // of reading
  double trial_seconds_ = 0;  // that guesses may take which are not known to pay
  DraftReport report_;
  // Of the step being guessed for.
  std::vector<Choice> choices_;
  std::vector<Part> parts_;
  std::vector<TokenId> step_tokens_;
  std::vector<StepSequence> step_sequences_;
  std::vector<std::int32_t> logit_rows_;
  std::vector<Seat*> guessing_;  // whose these rows are
};

}  // namespace dalsegno
