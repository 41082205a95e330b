#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <random>
#include <set>

#include "base/clock.hpp"
#include "cache/cache_test_support.hpp"

// Random operations against a naive oracle: a plain set of every prefix that was made visible.

namespace dalsegno::cache_test {
namespace {

struct Sequence {
  BlockTable table;
  std::string salt;
  bool is_private = false;
  Tokens tokens;  // committed
  Tokens target;  // that it will be filled with, beginning with `tokens`
  Retention retention = {};
};

// A request used these tokens; what it left may be reused until then, in milliseconds.
struct Use {
  std::string salt;
  Tokens tokens;
  std::int64_t expires;
};

std::size_t shared(const Tokens& a, std::span<const TokenId> b) {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

class Oracle {
 public:
  struct Shape {
    std::uint64_t pages = 0;
    TokenId alphabet = 2;
    std::uint64_t budget_pages = 1U << 20;
    std::uint32_t max_ghosts = 64;
    int window = 0;  // of two layers of three
    bool all_slide = false;
    int start = 0;
    int max_size = 0;
    int keep = 0;
    int most_tokens = 1 << 16;
    std::uint64_t quota_pages = 0;  // 0: neither quotas nor pins, priorities and times to live
    [[nodiscard]] bool is_bounded() const { return window > 0 || max_size > 0; }
    [[nodiscard]] KvLayout layout() const {
      KvLayout plain = kLayout;
      plain.layers = window > 0 || start > 0 ? 3 : 1;
      plain.format = start > 0 ? KvFormat::q8 : KvFormat::bf16;
      plain.start = start;
      plain.max_size = max_size;
      plain.keep = keep;
      return with_window(plain, window, [this](int layer) { return all_slide || layer != 1; });
    }
  };

  Oracle(unsigned seed, const Shape& shape) : random_(seed), shape_(shape), budget_(shape.budget_pages * kPage) {
    const KvLayout layout = shape.layout();
    page_ = (layout.page_bytes() + 63) / 64 * 64;
    auto cache = KvCache::create({.layout = layout,
                                  .max_bytes = shape.pages * page_,
                                  .budget = &budget_,
                                  .most_tokens = shape.most_tokens,
                                  .max_ghosts = shape.max_ghosts,
                                  .quota_bytes = shape.quota_pages * page_,
                                  .clock = &clock_,
                                  .extent_bytes = 8 * page_});
    if (cache.ok()) cache_ = std::move(cache).value();
  }

  void run(int steps) {
    ASSERT_NE(cache_, nullptr);
    for (int step = 0; step < steps; ++step) {
      act();
      note_forgotten();
      ASSERT_EQ(cache_->check_invariants(), "") << "after step " << step;
      ASSERT_LE(cache_->stats().pages_used * page_, budget_.used(MemoryKind::kv));
      ASSERT_LE(budget_.used(), budget_.limit());
      if (!live_.empty()) verify(pick());
      ASSERT_FALSE(testing::Test::HasFailure()) << "at step " << step;
    }
    while (!live_.empty()) finish();
    pins_.clear();
    cache_->clear();
    EXPECT_EQ(cache_->stats().pages_used, 0U);
    EXPECT_EQ(cache_->stats().blocks_pinned, 0U);
    EXPECT_EQ(cache_->stats().index_nodes, 0U);
    EXPECT_EQ(budget_.used(MemoryKind::kv), 0U);
    cache_.reset();
    EXPECT_EQ(budget_.used(), 0U);
  }

  std::uint64_t evictions() const { return evictions_; }
  int exact_checks() const { return exact_checks_; }
  int refusals() const { return refusals_; }
  int window_stops() const { return window_stops_; }
  std::uint64_t checkpoint_evictions() const { return checkpoint_evictions_; }
  std::uint64_t expirations() const { return expirations_; }
  std::uint64_t quota_evictions() const { return quota_evictions_; }
  int pins() const { return pins_made_; }
  int pin_refusals() const { return pin_refusals_; }

 private:
  int below(int limit) { return std::uniform_int_distribution<int>(0, limit - 1)(random_); }
  Sequence& pick() { return live_[static_cast<std::size_t>(below(static_cast<int>(live_.size())))]; }
  std::string any_salt() { return std::string(1, static_cast<char>('a' + below(3))); }

  void note_forgotten() {
    const CacheStats stats = cache_->stats();
    if (stats.evicted.chosen() != evictions_ || stats.evicted.expired != expirations_) forgot_ = true;
    if (stats.evicted.checkpoints != checkpoint_evictions_) forgot_checkpoints_ = true;
    expirations_ = stats.evicted.expired;
    quota_evictions_ = stats.evicted.quota;
    evictions_ = stats.evicted.chosen();
    checkpoint_evictions_ = stats.evicted.checkpoints;
  }

  void act() {
    const int dice = below(100);
    if (live_.empty() || (dice < 16 && live_.size() < 6)) return open();
    if (dice < 62) return compute(pick());
    if (dice < 68) return fork();
    if (dice < 76) return rewind(pick());
    if (dice < 79) return preview();
    if (dice < 80) return clear();
    if (dice < 90 && retains()) return retain();
    finish();
  }

  // Often the beginning of something seen before, so that prefixes collide at every length.
  Tokens any_tokens() {
    Tokens tokens;
    if (!history_.empty() && below(4) > 0) {
      const Tokens& old = history_[static_cast<std::size_t>(below(static_cast<int>(history_.size())))];
      tokens.assign(old.begin(), old.begin() + below(static_cast<int>(old.size()) + 1));
    }
    for (int more = below(24) + 1; more > 0; --more) tokens.push_back(below(shape_.alphabet));
    if (tokens.size() > 100) tokens.resize(100);
    return tokens;
  }

  bool retains() const { return shape_.quota_pages > 0; }
  Retention any_retention() {
    if (!retains()) return {};
    return {.priority = below(5) - 2, .ttl_seconds = below(2) * (0.5 + below(8))};
  }
  void used(const Sequence& sequence) {
    if (!retains() || sequence.is_private) return;
    std::erase_if(uses_, [&](const Use& use) { return use.expires <= clock_.now().count(); });
    const double ttl = sequence.retention.ttl_seconds;
    const auto expires = ttl > 0 ? clock_.now().count() + static_cast<std::int64_t>(1000 * ttl)
                                 : std::numeric_limits<std::int64_t>::max();
    uses_.push_back({sequence.salt, sequence.tokens, expires});
  }

  void retain() {
    const int dice = below(10);
    if (dice < 4) return clock_.advance(std::chrono::milliseconds(below(4000)));
    if (dice < 6 && !pins_.empty()) {
      pins_.erase(pins_.begin() + below(static_cast<int>(pins_.size())));
    } else {
      pin();
    }
  }

  // Whole blocks of something cached. Each block counts once, however many pins share it.
  void pin() {
    std::string salt = any_salt();
    Tokens wanted = any_tokens();
    if (!live_.empty() && below(4) > 0) {
      const Sequence& running = pick();
      salt = running.salt;
      wanted = running.tokens;
    }
    const int limit = static_cast<int>(wanted.size()) / kBlockTokens * kBlockTokens;
    Sequence pin{.table = {}, .salt = salt, .tokens = {}, .target = {}, .retention = any_retention()};
    KvCache::Opened opened = cache_->open(keyed(salt), wanted, limit, pin.retention);
    const int whole = cache_->rewind(opened.table, opened.reused / kBlockTokens * kBlockTokens);
    pin.table = std::move(opened.table);
    pin.tokens.assign(wanted.begin(), wanted.begin() + whole);
    used(pin);
    std::set<std::pair<std::string, Tokens>> all;
    std::set<Tokens> own;
    const auto count = [&](const Sequence& each) {
      for (auto end = kBlockTokens; end <= static_cast<int>(each.tokens.size()); end += kBlockTokens) {
        const Tokens prefix(each.tokens.begin(), each.tokens.begin() + end);
        all.emplace(each.salt, prefix);
        if (each.salt == salt) own.insert(prefix);
      }
    };
    for (const Sequence& each : pins_) count(each);
    count(pin);
    const bool fits = all.size() <= cache_->stats().pages_limit / 2 && own.size() <= shape_.quota_pages;
    const bool allowed = cache_->may_pin(keyed(salt), pin.tokens).ok();
    const bool pinned = cache_->pin(pin.table).ok();
    EXPECT_EQ(pinned, allowed);
    if (shape_.window == 0) {
      EXPECT_EQ(pinned, fits);
      EXPECT_EQ(cache_->stats().blocks_pinned, fits ? all.size() : cache_->stats().blocks_pinned);
    }
    pin_refusals_ += pinned ? 0 : 1;
    if (!pinned || whole == 0) return;
    ++pins_made_;
    pins_.push_back(std::move(pin));
  }

  // Of what has expired nothing is reused: a table holds it, or a use that counts still.
  void check_not_expired(const std::string& salt, std::span<const TokenId> reused) const {
    if (reused.empty() || !retains()) return;
    // Who uses a part of a block keeps all of it.
    const std::size_t before_last = (reused.size() - 1) / kBlockTokens * kBlockTokens;
    const auto covers = [&](const std::string& other, const Tokens& tokens) {
      return other == salt && shared(tokens, reused) > before_last;
    };
    const auto holds = [&](const Sequence& each) { return !each.is_private && covers(each.salt, each.tokens); };
    EXPECT_TRUE(std::ranges::any_of(live_, holds) || std::ranges::any_of(pins_, holds) ||
                std::ranges::any_of(uses_, [&](const Use& use) {
                  return use.expires > clock_.now().count() && covers(use.salt, use.tokens);
                }));
  }

  void open() {
    Sequence sequence;
    sequence.retention = any_retention();
    sequence.salt = any_salt();
    sequence.target = any_tokens();
    sequence.is_private = below(8) == 0;
    if (sequence.is_private) {
      sequence.table = cache_->open_private();
    } else {
      const int limit = below(static_cast<int>(sequence.target.size()) + 1);
      const auto preview = cache_->preview(keyed(sequence.salt), sequence.target, limit);
      check(sequence, limit, preview);
      KvCache::Opened opened = cache_->open(keyed(sequence.salt), sequence.target, limit, sequence.retention);
      EXPECT_EQ(opened.reused, opened.table.tokens());
      if (opened.reused != preview.reused) {
        EXPECT_LE(opened.reused, preview.reused / kBlockTokens * kBlockTokens);
        EXPECT_EQ(opened.at, preview.reused / kBlockTokens * kBlockTokens);
        EXPECT_EQ(opened.stopped, Stopped::evicted);
      } else {
        EXPECT_EQ(opened.at, preview.at);
        EXPECT_EQ(opened.stopped, preview.stopped);
      }
      sequence.table = std::move(opened.table);
      sequence.tokens.assign(sequence.target.begin(), sequence.target.begin() + opened.reused);
      used(sequence);
      verify(sequence);
    }
    history_.push_back(sequence.target);
    if (history_.size() > 40) history_.erase(history_.begin());
    live_.push_back(std::move(sequence));
  }

  // Nothing reused that was never visible; everything, unless something was forgotten; and always
  // what a running sequence holds.
  void check(const Sequence& sequence, int limit, const KvCache::Preview& preview) {
    const auto tokens = std::span<const TokenId>(sequence.target).first(static_cast<std::size_t>(limit));
    note_forgotten();  // looking makes what has expired go
    const auto got = static_cast<std::size_t>(preview.at);
    const Stopped stopped = preview.stopped;
    EXPECT_EQ(stopped == Stopped::window, preview.reused < preview.at);
    if (!shape_.is_bounded()) {
      EXPECT_EQ(preview.reused, preview.at);
    }
    check_resumed(sequence, tokens, preview.reused);
    std::size_t longest = 0;
    std::size_t elsewhere = 0;
    bool continues = false;
    for (const auto& [salt, prefix] : visible_) {
      const std::size_t common = shared(prefix, tokens);
      (salt == sequence.salt ? longest : elsewhere) = std::max(salt == sequence.salt ? longest : elsewhere, common);
      continues |= salt == sequence.salt && common == got && prefix.size() > got;
    }
    EXPECT_LE(got, longest);
    check_not_expired(sequence.salt, tokens.first(got));
    for (const Sequence& pin : pins_) {
      if (pin.salt == sequence.salt) {
        EXPECT_GE(got, shared(pin.tokens, tokens));
      }
    }
    for (const Sequence& other : live_) {
      if (other.is_private || other.salt != sequence.salt) continue;
      const Tokens full(other.tokens.begin(),
                        other.tokens.end() - static_cast<int>(other.tokens.size()) % kBlockTokens);
      EXPECT_GE(got, shared(full, tokens));
    }
    EXPECT_EQ(stopped == Stopped::end, preview.reused == limit);
    if (forgot_) return;
    ++exact_checks_;
    EXPECT_EQ(got, longest);
    window_stops_ += stopped == Stopped::window ? 1 : 0;
    if (preview.at < limit && stopped != Stopped::window) {
      const Stopped other = elsewhere > got ? Stopped::name_space : Stopped::cold;
      EXPECT_EQ(name(stopped), name(continues ? Stopped::diverged : other));
    }
  }

  // From where a sequence ended it can be resumed, or from the beginning of that block if the index has the whole
  // block of another sequence that went on and has left its window.
  void check_resumed(const Sequence& sequence, std::span<const TokenId> tokens, int reused) {
    if (forgot_ || forgot_checkpoints_) return;
    for (const auto& [salt, end] : ended_) {
      if (salt != sequence.salt || shared(end, tokens) < end.size()) continue;
      EXPECT_GE(reused, static_cast<int>(end.size()) / kBlockTokens * kBlockTokens);
    }
  }

  void compute(Sequence& sequence) {
    if (sequence.tokens.size() == sequence.target.size()) {
      for (int more = below(20) + 1; more > 0; --more) sequence.target.push_back(below(shape_.alphabet));
    }
    const int missing = static_cast<int>(sequence.target.size() - sequence.tokens.size());
    const int chunk = below(missing) + 1;
    const int rows = chunk + below(20);
    const int capacity = sequence.table.capacity();
    const int blocks = sequence.table.blocks();
    const auto before = cache_->stats();
    if (const auto room = cache_->extend(sequence.table, rows + below(30), rows); !room.ok()) {
      ++refusals_;
      EXPECT_EQ(room.error().code, ErrorCode::exhausted);
      EXPECT_EQ(sequence.table.capacity(), capacity);
      EXPECT_EQ(sequence.table.blocks(), blocks);
      EXPECT_EQ(cache_->stats().pages_used, before.pages_used);
      EXPECT_EQ(cache_->stats().evicted.chosen(), before.evicted.chosen());
      return finish();
    }
    // What a step leaves behind positions it does not commit is garbage nobody may ever see.
    const KvView view = cache_->view(sequence.table);
    for (int p = sequence.table.tokens(); p < sequence.table.capacity(); ++p) write(view, p, random_());
    const auto done = sequence.tokens.size();
    sequence.tokens.assign(sequence.target.begin(), sequence.target.begin() + static_cast<int>(done) + chunk);
    fill(*cache_, sequence.table, sequence.salt, sequence.tokens);
    used(sequence);
    if (!sequence.is_private) {
      for (auto end = (done / kBlockTokens + 1) * kBlockTokens; end <= sequence.tokens.size(); end += kBlockTokens) {
        show(sequence.salt, sequence.tokens, end);
      }
    }
  }

  void show(const std::string& salt, const Tokens& tokens, std::size_t count) {
    visible_.emplace(salt, Tokens(tokens.begin(), tokens.begin() + static_cast<int>(count)));
  }

  void fork() {
    if (live_.size() >= 8) return;
    Sequence& source = pick();
    Sequence copy{
        cache_->fork(source.table), source.salt, source.is_private, source.tokens, source.tokens, source.retention};
    for (int more = below(30); more > 0; --more) copy.target.push_back(below(shape_.alphabet));
    verify(source);
    verify(copy);
    live_.push_back(std::move(copy));
  }

  void rewind(Sequence& sequence) {
    used(sequence);
    const int asked = below(static_cast<int>(sequence.tokens.size()) + 1);
    const int keep = cache_->rewind(sequence.table, asked);
    EXPECT_LE(keep, asked);
    if (!shape_.is_bounded()) {
      EXPECT_EQ(keep, asked);
    }
    sequence.tokens.resize(static_cast<std::size_t>(keep));
    sequence.target = sequence.tokens;
    verify(sequence);
  }

  void preview() {
    Sequence sequence;
    sequence.salt = any_salt();
    sequence.target = any_tokens();
    const int limit = below(static_cast<int>(sequence.target.size()) + 1);
    const auto seen = cache_->preview(keyed(sequence.salt), sequence.target, limit);
    check(sequence, limit, seen);
  }

  void finish() {
    const auto at = below(static_cast<int>(live_.size()));
    Sequence sequence = std::move(live_[static_cast<std::size_t>(at)]);
    live_.erase(live_.begin() + at);
    used(sequence);
    const int how = below(8);
    if (how == 0) return;  // the destructor discards
    if (how == 1) return cache_->discard(std::move(sequence.table));
    cache_->close(std::move(sequence.table));
    EXPECT_FALSE(sequence.table.is_open());
    if (sequence.is_private || sequence.tokens.empty()) return;
    show(sequence.salt, sequence.tokens, sequence.tokens.size());
    ended_.emplace(sequence.salt, sequence.tokens);
  }

  // With nothing running everything is forgotten, and the oracle is exact again.
  void clear() {
    if (below(3) > 0) {
      while (!live_.empty()) finish();
      pins_.clear();
    }
    cache_->clear();
    forgot_ = forgot_checkpoints_ = !live_.empty() || !pins_.empty();
    if (!pins_.empty()) return;
    if (!live_.empty()) return;
    visible_.clear();
    ended_.clear();
  }

  void verify(const Sequence& sequence) {
    ASSERT_EQ(sequence.table.tokens(), static_cast<int>(sequence.tokens.size()));
    EXPECT_EQ(first_wrong(cache_->view(sequence.table), sequence.salt, sequence.tokens), -1);
  }

  std::mt19937_64 random_;
  Shape shape_;
  std::uint64_t page_ = kPage;
  MemoryBudget budget_;
  ManualClock clock_;
  std::unique_ptr<KvCache> cache_;
  std::vector<Sequence> live_;
  std::vector<Sequence> pins_;
  std::vector<Use> uses_;
  std::vector<Tokens> history_;
  std::set<std::pair<std::string, Tokens>> visible_;
  std::set<std::pair<std::string, Tokens>> ended_;
  std::uint64_t evictions_ = 0;
  std::uint64_t checkpoint_evictions_ = 0;
  std::uint64_t expirations_ = 0;
  std::uint64_t quota_evictions_ = 0;
  int pins_made_ = 0;
  int pin_refusals_ = 0;
  bool forgot_ = false;  // something visible may be gone
  bool forgot_checkpoints_ = false;
  int window_stops_ = 0;
  int exact_checks_ = 0;
  int refusals_ = 0;
};

TEST(KvCacheOracle, WithRoomForAllEveryVisibleTokenIsReused) {
  int exact_checks = 0;
  for (unsigned seed = 1; seed <= 6; ++seed) {
    SCOPED_TRACE(seed);
    Oracle oracle(seed, {.pages = 4000, .alphabet = 2 + static_cast<TokenId>(seed % 3)});
    oracle.run(2500);
    if (HasFailure()) return;
    EXPECT_EQ(oracle.evictions(), 0U);
    exact_checks += oracle.exact_checks();
  }
  EXPECT_GT(exact_checks, 1000);
}

TEST(KvCacheOracle, UnderConstantEvictionEveryReusedTokenIsItsOwn) {
  std::uint64_t evictions = 0;
  int refusals = 0;
  for (unsigned seed = 11; seed <= 18; ++seed) {
    SCOPED_TRACE(seed);
    Oracle oracle(seed, {.pages = 6 + seed % 5 * 6, .alphabet = 2, .max_ghosts = seed % 2 == 0 ? 0U : 9U});
    oracle.run(2500);
    if (HasFailure()) return;
    evictions += oracle.evictions();
    refusals += oracle.refusals();
  }
  EXPECT_GT(evictions, 1000U);
  EXPECT_GT(refusals, 100);
}

TEST(KvCacheOracle, WithSlidingLayersEverySequenceResumesFromWhereOneEnded) {
  int exact_checks = 0;
  int window_stops = 0;
  for (unsigned seed = 31; seed <= 38; ++seed) {
    SCOPED_TRACE(seed);
    const int window = std::array{1, 5, 16, 17, 20, 33, 48, 64}[seed - 31];
    Oracle oracle(seed, {.pages = 12000, .alphabet = 2 + static_cast<TokenId>(seed % 2), .window = window});
    oracle.run(2500);
    if (HasFailure()) return;
    EXPECT_EQ(oracle.evictions(), 0U);
    exact_checks += oracle.exact_checks();
    window_stops += oracle.window_stops();
  }
  EXPECT_GT(exact_checks, 1000);
  EXPECT_GT(window_stops, 100);
}

TEST(KvCacheOracle, WithSlidingLayersUnderConstantEvictionEveryReusedTokenIsItsOwn) {
  std::uint64_t evictions = 0;
  std::uint64_t checkpoint_evictions = 0;
  for (unsigned seed = 41; seed <= 50; ++seed) {
    SCOPED_TRACE(seed);
    const int window = std::array{1, 16, 17, 24, 50}[seed % 5];
    Oracle oracle(seed, {.pages = 20 + seed % 5 * 12, .alphabet = 2, .max_ghosts = 9, .window = window});
    oracle.run(2500);
    if (HasFailure()) return;
    evictions += oracle.evictions();
    checkpoint_evictions += oracle.checkpoint_evictions();
  }
  EXPECT_GT(evictions, 1000U);
  EXPECT_GT(checkpoint_evictions, 300U);
}

TEST(KvCacheOracle, WhereEveryLayerHasAWindowOrCodesStartLaterEverySequenceResumesFromWhereOneEnded) {
  int exact_checks = 0;
  int window_stops = 0;
  const std::array<Oracle::Shape, 8> shapes{{{.max_size = 20},
                                             {.max_size = 40, .keep = 7},
                                             {.max_size = 70, .keep = 33},
                                             {.window = 30, .max_size = 64, .keep = 16},
                                             {.window = 21, .all_slide = true},
                                             {.start = 32},
                                             {.window = 17, .start = 48},
                                             {.start = 32, .max_size = 60, .keep = 50}}};
  for (unsigned seed = 61; seed <= 68; ++seed) {
    SCOPED_TRACE(seed);
    Oracle::Shape shape = shapes[seed - 61];
    shape.pages = 20000;
    shape.alphabet = 2 + static_cast<TokenId>(seed % 2);
    Oracle oracle(seed, shape);
    oracle.run(2500);
    if (HasFailure()) return;
    EXPECT_EQ(oracle.evictions(), 0U);
    exact_checks += oracle.exact_checks();
    window_stops += oracle.window_stops();
  }
  EXPECT_GT(exact_checks, 1000);
  EXPECT_GT(window_stops, 50);
}

TEST(KvCacheOracle, WhereEveryLayerHasAWindowOrCodesStartLaterEveryReusedTokenIsItsOwnUnderEviction) {
  std::uint64_t evictions = 0;
  std::uint64_t checkpoint_evictions = 0;
  const std::array<Oracle::Shape, 8> shapes{{{.max_size = 20, .most_tokens = 500},
                                             {.max_size = 40, .keep = 7},
                                             {.max_size = 50, .keep = 33, .most_tokens = 100},
                                             {.window = 30, .max_size = 64, .keep = 16},
                                             {.window = 21, .all_slide = true, .most_tokens = 300},
                                             {.start = 32},
                                             {.window = 17, .start = 48},
                                             {.start = 32, .max_size = 60, .keep = 50}}};
  for (unsigned seed = 71; seed <= 78; ++seed) {
    SCOPED_TRACE(seed);
    Oracle::Shape shape = shapes[seed - 71];
    shape.pages = (shape.start > 0 ? 40 : 14) + seed % 5 * 8;
    shape.alphabet = 2;
    shape.max_ghosts = seed % 2 == 0 ? 0 : 9;
    Oracle oracle(seed, shape);
    oracle.run(2500);
    if (HasFailure()) return;
    evictions += oracle.evictions();
    checkpoint_evictions += oracle.checkpoint_evictions();
  }
  EXPECT_GT(evictions, 1000U);
  EXPECT_GT(checkpoint_evictions, 200U);
}

TEST(KvCacheOracle, PinsStayWhatExpiredIsGoneAndNoTenantKeepsMoreThanItsQuota) {
  std::uint64_t evictions = 0;
  std::uint64_t quota_evictions = 0;
  std::uint64_t expirations = 0;
  int pins = 0;
  int refusals = 0;
  for (unsigned seed = 51; seed <= 62; ++seed) {
    SCOPED_TRACE(seed);
    const int window = seed % 3 == 0 ? 20 : 0;
    const std::uint64_t pages = 20 + seed % 5 * 14;
    Oracle oracle(seed, {.pages = pages, .alphabet = 2, .max_ghosts = 9, .window = window, .quota_pages = pages / 3});
    oracle.run(2500);
    if (HasFailure()) return;
    evictions += oracle.evictions();
    quota_evictions += oracle.quota_evictions();
    expirations += oracle.expirations();
    pins += oracle.pins();
    refusals += oracle.pin_refusals();
  }
  EXPECT_GT(evictions, quota_evictions);
  EXPECT_GT(quota_evictions, 300U);
  EXPECT_GT(expirations, 300U);
  EXPECT_GT(pins, 100);
  EXPECT_GT(refusals, 4);
}

TEST(KvCacheOracle, WhenTheProcessBudgetIsTheLimitItIsNeverExceeded) {
  std::uint64_t evictions = 0;
  for (unsigned seed = 21; seed <= 24; ++seed) {
    SCOPED_TRACE(seed);
    Oracle oracle(seed, {.pages = 1000, .alphabet = 3, .budget_pages = 100, .max_ghosts = 16});
    oracle.run(2500);
    if (HasFailure()) return;
    evictions += oracle.evictions();
  }
  EXPECT_GT(evictions, 100U);
}

}  // namespace
}  // namespace dalsegno::cache_test
