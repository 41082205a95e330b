#include "runtime/local_engine.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <future>

#include "backend/cpu/cpu_backend.hpp"
#include "dalsegno/diagnostics.hpp"
#include "gguf/gguf.hpp"
#include "gguf/printable.hpp"
#include "model/kv_layout.hpp"
#include "model/registry.hpp"
#include "runtime/draft_lookup.hpp"
#include "runtime/fingerprint.hpp"
#include "runtime/generation.hpp"
#include "runtime/opening.hpp"
#include "runtime/tokenizer_impl.hpp"
#include "runtime/waiter.hpp"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace dalsegno {
namespace {

#ifdef NDEBUG
constexpr double kAuditShare = 1.0 / 256;  // 16 rows of a step for 4096 computed: 0.4%
#else
constexpr double kAuditShare = 1.0 / 8;
#endif

// What other engines cached makes way for the weights, and for as much again to work with.
void make_room(ProcessMemory& memory, const EngineOptions& options, const std::stop_token& cancel) {
  std::uint64_t files = 0;
  for (const std::string& path : {options.model_path, options.draft_model_path}) {
    std::error_code error;
    const std::uintmax_t file = std::filesystem::file_size(path, error);
    if (!error) files += file;
  }
  if (files == 0) return;
  const std::uint64_t limit = memory.budget().limit();
  memory.ask_and_wait({.target = std::max<std::uint64_t>(1, limit - std::min<std::uint64_t>(limit, 2 * files))},
                      nullptr, cancel);
}

Result<void> check_switches(const EngineOptions& options) {
  if (options.threads < 0 || options.threads > kMaxThreads) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{} threads are not possible; choose 1 to {}", options.threads, kMaxThreads)};
  }
  if (options.activation_bits != 8 && options.activation_bits != 16) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("activations of {} bits are not possible; choose 8 or 16", options.activation_bits)};
  }
  if (options.kv.format > KvFormat::q4) {
    return Error{ErrorCode::invalid_argument, fmt::format("there is no K/V format {}; choose bf16, f32, q8 or q4",
                                                          static_cast<int>(options.kv.format))};
  }
  if (!(options.audit_share <= 1)) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("an audit share of {} is not possible; choose 0 to 1, or a negative number for the default",
                    options.audit_share)};
  }
  if (!(options.step_ms >= 0)) {
    return Error{ErrorCode::invalid_argument, fmt::format("steps of {} ms are not possible", options.step_ms)};
  }
  return {};
}

// Before a tensor is read.
Result<void> check_room(const GgufFile& file, const ModelConfig& config, const EngineOptions& options,
                        const MemoryBudget& budget) {
  DALSEGNO_ASSIGN(needs, memory_needs(file, config, options, 1));
  const std::uint64_t free = budget.free_bytes();
  if (needs.total() <= free) return {};
  return Error{ErrorCode::exhausted,
               fmt::format("{} needs at least {}, or lower --context", quoted_path(options.model_path),
                           too_much_for(budget, needs.total(), free))};
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::open(const EngineOptions& options, const std::stop_token& cancel) {
  DALSEGNO_ASSIGN(engine, LocalEngine::open(options, cancel));
  return std::unique_ptr<Engine>(std::move(engine));
}

Result<std::unique_ptr<LocalEngine>> LocalEngine::open(const EngineOptions& options, const std::stop_token& cancel) {
  DALSEGNO_TRY(check_switches(options));
  DALSEGNO_ASSIGN(kernels, chosen_kernels());
  DALSEGNO_ASSIGN(memory, ProcessMemory::join(options.memory));
  const ProcessMemory::Use loading = memory->use();
  std::unique_ptr<LocalEngine> engine(new LocalEngine(*kernels, memory, worker_threads(options)));
  make_room(*memory, options, cancel);
  // The vocabulary's tables take one thread about as long as the weights take all.
  auto tokenizer = std::async(std::launch::async, [&] { return Tokenizer::open(options.model_path); });
  Result<void> loaded = engine->load(options, cancel);
  DALSEGNO_ASSIGN(opened, tokenizer.get());
  DALSEGNO_TRY(std::move(loaded));
  if (cancel.stop_requested()) {
    return Error{ErrorCode::cancelled, fmt::format("{}: loading was cancelled", quoted_path(options.model_path))};
  }
  engine->tokenizer_ = std::move(opened);
  engine->constraints_ = std::make_unique<Constraints>(engine->vocabulary(), engine->config_.vocabulary, *memory);
  memory->add(engine.get(), [own = engine.get()](const ProcessMemory::Cut& asked) { own->cut(asked); });
  return engine;
}

Result<std::uint64_t> LocalEngine::bytes_needed(const EngineOptions& options) {
  DALSEGNO_TRY(check_switches(options));
  DALSEGNO_ASSIGN(file, GgufFile::open(options.model_path));
  DALSEGNO_ASSIGN(config, read_config(*file));
  DALSEGNO_TRY(check_context(options, config));
  DALSEGNO_ASSIGN(needs, memory_needs(*file, config, options, 1));
  return needs.weights + needs.work;
}

LocalEngine::LocalEngine(const Kernels& kernels, std::shared_ptr<ProcessMemory> memory, int threads)
    : kernels_(kernels), memory_(std::move(memory)), pool_(threads) {}

LocalEngine::~LocalEngine() {
  memory_->remove(this);
}

void LocalEngine::cut(const ProcessMemory::Cut& cut) {
  scheduler_->post([this, cut](KvCache& cache) {
    if (cut.only_if_idle && memory_->is_active()) return;
    if (draft_model_ != nullptr && memory_->budget().used() > cut.target) draft_model_->release(cut.buffers);
    constraints_->forget(cut.target);
    if (cut.target == 0) {
      cache.clear();
    } else {
      cache.shrink(cut.target);
    }
    if (cut.buffers) {
      backend_->release_buffers();
#ifdef __GLIBC__
      malloc_trim(0);
#endif
    }
    if (cut.done) cut.done();
  });
}

Result<void> LocalEngine::load(const EngineOptions& options, const std::stop_token& cancel) {
  DALSEGNO_ASSIGN(file, GgufFile::open(options.model_path));
  DALSEGNO_ASSIGN(config, read_config(*file));
  config_ = config;
  DALSEGNO_ASSIGN(kv, kv_options(config, options.kv));
  DALSEGNO_TRY(check_context(options, config));
  DALSEGNO_TRY(check_room(*file, config, options, memory_->budget()));
  DALSEGNO_ASSIGN(saving, memory_->budget().reserve(MemoryKind::work, kSavingBytes, "saving caches"));
  saving_ = std::move(saving);
  DALSEGNO_ASSIGN(vocabulary, memory_->budget().reserve(MemoryKind::work, vocabulary_bytes(*file), "the vocabulary"));
  vocabulary_ = std::move(vocabulary);
  const int wanted = context_of(options, config);
  backend_ = make_cpu_backend(pool_, kernels_, memory_->budget(), options.activation_bits, cancel);
  ModelLimits limits;
  limits.positions = wanted;
  DALSEGNO_ASSIGN(model, load_model(*file, config, limits, *backend_));
  model_ = std::move(model);
  if (!options.draft_model_path.empty()) {
    DALSEGNO_ASSIGN(draft, DraftModel::open({.path = options.draft_model_path,
                                             .target = file.get(),
                                             .context = wanted,
                                             .step_seconds = options.step_ms / 1e3,
                                             .pool = &pool_,
                                             .kernels = &kernels_,
                                             .budget = &memory_->budget(),
                                             .cancel = cancel}));
    draft_model_ = std::move(draft);
  }

  KvCacheOptions cache_options;
  cache_options.layout = kv_layout(config, kv);
  cache_options.max_bytes = memory_->budget().free_bytes();
  cache_options.most_tokens = wanted;
  cache_options.eviction = options.eviction;
  cache_options.budget = &memory_->budget();
  cache_options.quotas = options.quotas;
  cache_options.quota_bytes = options.quota_bytes;
  DALSEGNO_ASSIGN(cache, KvCache::create(cache_options));
  cache_ = std::move(cache);
  const int room = cache_->most_tokens(limits.rows);
  context_ = std::min(wanted, room);
  rows_ = limits.rows;
  memory_bound_ = room < wanted;
  if (wanted < config.context) {
    remedy_ = fmt::format("shorten it, or raise --context up to the {} that the model was made for", config.context);
  } else {
    remedy_ = "shorten it: the model was made for no more";
  }

  NumericsKey key;
  DALSEGNO_ASSIGN(file_fingerprint, fingerprint(*file, config, pool_, cancel));
  key.fingerprint = file_fingerprint;
  key.activation_bits = options.activation_bits;
  key.kv = kv;
  key.numerics_version = kNumericsVersion;
  const double audit_share = options.audit_share < 0 ? kAuditShare : options.audit_share;
  scheduler_ = std::make_unique<Scheduler>(Scheduler::Parts{model_.get(), backend_.get(), cache_.get(), key,
                                                            limits.rows, context_, memory_.get(), this, audit_share,
                                                            options.step_ms / 1e3, draft_model_.get()});
  return {};
}

Result<void> LocalEngine::check_prompt(std::span<const TokenId> prompt) const {
  if (prompt.empty()) return Error{ErrorCode::invalid_argument, "the prompt is empty; give at least one token"};
  const int size = static_cast<int>(prompt.size());
  if (size > context_ && memory_bound_) {
    const auto [needed, there] = told_apart(cache_->bytes_for(size, rows_), cache_->bytes_for(context_, rows_));
    return Error{
        ErrorCode::exhausted,
        fmt::format("the prompt's {} tokens need {} of K/V, but the memory budget of {} has room for {}, which "
                    "hold {} tokens; shorten it, or raise --memory",
                    size, needed, human_bytes(memory_->budget().limit()), there, context_)};
  }
  if (size > context_) {
    return Error{ErrorCode::invalid_argument, fmt::format("the prompt has {} tokens, but the context holds {}; {}",
                                                          prompt.size(), context_, remedy_)};
  }
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    if (prompt[i] >= 0 && prompt[i] < config_.vocabulary) continue;
    return Error{ErrorCode::invalid_argument,
                 fmt::format("token {} of the prompt is {}, outside the vocabulary of {} tokens", i, prompt[i],
                             config_.vocabulary)};
  }
  return {};
}

Result<void> LocalEngine::check_options(const GenerateOptions& options) const {
  if (options.tool_choice) {
    return Error{ErrorCode::invalid_argument,
                 "tool_choice is for sessions with tools; elsewhere give a constraint made by tool_calls()"};
  }
  if (std::string wrong = check(options.sampling, config_.vocabulary); !wrong.empty())
    return Error{ErrorCode::invalid_argument, std::move(wrong)};
  if (options.max_tokens < 1 || options.chunk < 1) {
    return Error{ErrorCode::invalid_argument, "max_tokens and chunk must be at least 1"};
  }
  if (std::abs(options.retention.priority) > kMostPriority || !(options.retention.ttl_seconds >= 0)) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("a priority of {} for {} seconds is not possible; choose -{} to {}, and a time that is not "
                    "negative",
                    options.retention.priority, options.retention.ttl_seconds, kMostPriority, kMostPriority)};
  }
  const Scheduling& scheduling = options.scheduling;
  if (std::abs(scheduling.urgency) > kMostUrgency || !(scheduling.deadline_seconds >= 0)) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("an urgency of {} with a deadline after {} seconds is not possible; choose -{} to {}, and "
                             "a time that is not negative",
                             scheduling.urgency, scheduling.deadline_seconds, kMostUrgency, kMostUrgency)};
  }
  return {};
}

Result<Reply> LocalEngine::generate(std::span<const TokenId> prompt, const GenerateOptions& options,
                                    const GenerateCallbacks& callbacks) {
  DALSEGNO_TRY(check_prompt(prompt));
  DALSEGNO_TRY(check_options(options));
  DALSEGNO_ASSIGN(constrained, constrain(options, prompt));
  std::vector<TokenId> tokens(prompt.begin(), prompt.end());
  auto generation = std::make_shared<Generation>(tokens, options, callbacks, continuing(std::move(constrained)));
  const int last = static_cast<int>(tokens.size()) - 1;
  std::vector<Work> work;
  work.push_back({generation, std::move(tokens), last, options.chunk, options.reuse, options.salt, options.retention});
  work.back().scheduling = options.scheduling;
  work.back().drafter = drafter_for(options);
  work.back().most_reply = options.max_tokens;
  scheduler_->submit(std::move(work));
  return generation->wait(callbacks);
}

Result<std::unique_ptr<ConstrainedText>> LocalEngine::constrain(const GenerateOptions& options,
                                                                std::span<const TokenId> prompt) {
  if (!options.constraint) return std::unique_ptr<ConstrainedText>();
  return constraints_->begin(*options.constraint, prompt);
}

Result<Explanation> LocalEngine::explain(std::span<const TokenId> prompt, const std::string& salt) {
  DALSEGNO_TRY(check_prompt(prompt));
  const int size = static_cast<int>(prompt.size());
  const Admission seen = scheduler_->preview(prompt, size - 1, salt);
  return Explanation{size, seen.reused, seen.report(), 1e3 * seen.token_seconds * (size - seen.reused)};
}

std::uint64_t LocalEngine::bytes() const {
  return backend_->weight_bytes() + backend_->work_bytes() + vocabulary_.bytes() + saving_.bytes() +
         (draft_model_ == nullptr ? 0 : draft_model_->bytes());
}

std::shared_ptr<Drafter> LocalEngine::drafter_for(const GenerateOptions& options) {
  if (options.speculation == Speculation::off) return nullptr;
  if (draft_model_ == nullptr) return std::make_shared<DraftLookup>();
  return draft_model_->drafter_for(options);
}

std::optional<DraftReport> LocalEngine::draft_report() {
  if (draft_model_ == nullptr) return std::nullopt;
  DraftReport report;
  scheduler_->on_engine_thread([&](KvCache&) { report = draft_model_->report(); });
  return report;
}

const Vocabulary& LocalEngine::vocabulary() const {
  return *tokenizer_->impl().vocabulary;
}

Result<Pin> LocalEngine::pin(std::span<const TokenId> prefix, const std::string& salt) {
  DALSEGNO_TRY(check_prompt(prefix));
  const auto whole = prefix.first(prefix.size() / kBlockTokens * kBlockTokens);
  if (whole.empty()) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("a pin keeps whole blocks of {} tokens; a prefix of {} has none", kBlockTokens, prefix.size())};
  }
  DALSEGNO_ASSIGN(id, hold(whole, salt));
  return Pin(static_cast<int>(whole.size()), [this, id] { scheduler_->release(id); });
}

Result<std::uint64_t> LocalEngine::hold(std::span<const TokenId> tokens, const std::string& salt,
                                        HeldTables::Keep keep) {
  const std::uint64_t id = next_held();
  Result<bool> cached = false;
  scheduler_->with_held(
      [&](HeldTables& held) { cached = held.hold_cached(id, scheduler_->name_space(salt), tokens, keep); });
  if (!cached.ok()) return std::move(cached).error();
  if (cached.value()) return id;
  auto computed = std::make_shared<Waiter>();
  std::vector<Work> work;
  work.push_back({.request = computed,
                  .tokens = {tokens.begin(), tokens.end()},
                  .first_logit = static_cast<int>(tokens.size()),
                  .salt = salt,
                  .hold = id,
                  .keep = keep});
  scheduler_->submit(std::move(work));
  DALSEGNO_TRY(computed->wait());
  return id;
}

void LocalEngine::reset_cache() {
  scheduler_->on_engine_thread([this](KvCache& cache) {
    cache.clear();
    if (draft_model_ != nullptr) draft_model_->release(false);
  });
}

}  // namespace dalsegno
