// serving_check MODEL.gguf [PROMPT_TOKENS] [STEP_MS]: what a server's users notice, on a real model.
// 1. A long prompt arrives while eight replies are under way: the longest wait for a token of theirs, which must not
//    exceed three times the median wait before, and STEP_MS.
// 2. An engine with four sessions has nothing to do for five seconds: the CPU's share of them, which must round to
// 0.0%. Exit status 1 if either fails.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "dalsegno/batch.hpp"
#include "dalsegno/session.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using dalsegno::BatchGenerator;
using dalsegno::BatchRequest;
using dalsegno::Engine;
using dalsegno::Session;
using dalsegno::TokenId;

constexpr int kReplies = 8;
constexpr int kTokensBefore = 60;  // of each reply, to know the median
constexpr double kMostTimes = 3;
constexpr int kSessions = 4;
constexpr std::chrono::seconds kIdle{5};
constexpr double kMostIdleShare = 0.0005;

[[noreturn]] void fail(const dalsegno::Error& error) {
  std::fprintf(stderr, "error: %s\n", error.message.c_str());
  std::exit(1);
}

template <class T>
T must(dalsegno::Result<T> result) {
  if (!result.ok()) fail(result.error());
  return std::move(result).value();
}

double milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}

double share_of(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values.empty() ? 0 : values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

const char* verdict(bool passed) {
  return passed ? "pass" : "FAIL";
}

// Waits between the tokens of each reply, as whoever reads the batch sees them.
class Waits {
 public:
  void heard(std::uint64_t uid, Clock::time_point now) {
    const auto before = last_.find(uid);
    if (before != last_.end()) all.push_back(milliseconds(now - before->second));
    last_[uid] = now;
    ++tokens_[uid];
  }
  [[nodiscard]] bool each_has(int tokens) const {
    return tokens_.size() == kReplies && std::ranges::all_of(tokens_, [&](auto& one) { return one.second >= tokens; });
  }
  std::vector<double> all;

 private:
  std::map<std::uint64_t, Clock::time_point> last_;
  std::map<std::uint64_t, int> tokens_;
};

BatchRequest request(std::mt19937& random, int tokens, int most) {
  BatchRequest made;
  for (int i = 0; i < tokens; ++i) made.prompt.push_back(static_cast<TokenId>(1000 + random() % 20000));
  made.options.max_tokens = most;
  made.options.sampling.temperature = 1;
  return made;
}

bool check_waits(Engine& engine, int prompt_tokens, double step_ms) {
  std::mt19937 random(1);
  BatchGenerator batch(engine);
  std::vector<BatchRequest> replies;
  for (int i = 0; i < kReplies; ++i) {
    replies.push_back(request(random, 32, 1 << 20));
    replies.back().options.sampling.stream = static_cast<std::uint64_t>(i);
    // Replies that do not end by themselves: what would end a turn is not drawn.
    for (TokenId id = 0; id < 4; ++id) {
      replies.back().options.sampling.logit_bias.emplace_back(id, -1e9F);
    }
  }
  must(batch.insert(std::move(replies)));
  Waits before;
  while (!before.each_has(kTokensBefore)) {
    const auto responses = batch.next();
    const auto now = Clock::now();
    for (const auto& each : responses) before.heard(each.uid, now);
  }
  const std::uint64_t prompt = must(batch.insert({request(random, prompt_tokens, 1)})).front();
  const auto begin = Clock::now();
  Waits beside = before;  // the first waits begin before
  beside.all.clear();
  for (bool ended = false; !ended;) {
    const auto responses = batch.next();
    const auto now = Clock::now();
    for (const auto& each : responses) {
      ended = ended || each.uid == prompt;
      if (each.uid != prompt) beside.heard(each.uid, now);
    }
  }
  const double median = share_of(before.all, 0.5);
  const double longest = share_of(beside.all, 1);
  const double most = kMostTimes * median + step_ms;
  std::printf("%d replies alone: a token each %.1f ms (median), %.1f ms at most\n", kReplies, median,
              share_of(before.all, 1));
  std::printf("beside a prompt of %d tokens, for %.1f s: %.1f ms (median), %.1f ms (99%%), %.1f ms at most\n",
              prompt_tokens, 1e-3 * milliseconds(Clock::now() - begin), share_of(beside.all, 0.5),
              share_of(beside.all, 0.99), longest);
  const auto over = std::ranges::count_if(beside.all, [&](double wait) { return wait > most; });
  std::printf("%lld of %zu waits are longer than allowed\n", static_cast<long long>(over),  // NOLINT
              beside.all.size());
  std::printf("%s: %.1f ms, allowed are %.0f x %.1f + %.1f = %.1f ms\n", verdict(longest <= most), longest, kMostTimes,
              median, step_ms, most);
  return longest <= most;
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

bool check_idle(Engine& engine) {
  std::vector<Session> sessions;
  for (int i = 0; i < kSessions; ++i) {
    sessions.emplace_back(engine);
    must(sessions.back().respond("What is " + std::to_string(i) + " and one?", {.max_tokens = 16}));
  }
  // Sampled blocks are audited first, once.
  for (std::uint64_t audited = 1, before = 0; audited != before;) {
    before = audited;
    std::this_thread::sleep_for(std::chrono::seconds(1));
    const dalsegno::AuditReport report = engine.audit_cache();
    audited = report.checked + report.skipped;
  }
  const double before = cpu_seconds();
  const auto begin = Clock::now();
  std::this_thread::sleep_for(kIdle);
  const double used = cpu_seconds() - before;
  const double share = used / (1e-3 * milliseconds(Clock::now() - begin));
  std::printf("%s: idle with %d sessions for %lld s: %.3f ms of CPU, %.1f%%\n", verdict(share < kMostIdleShare),
              kSessions, static_cast<long long>(kIdle.count()), 1e3 * used,  // NOLINT(google-runtime-int)
              100 * share);
  return share < kMostIdleShare;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) return 2;
  dalsegno::EngineOptions options;
  options.model_path = argv[1];
  const int prompt_tokens = argc > 2 ? std::atoi(argv[2]) : 4096;
  if (argc > 3) options.step_ms = std::atof(argv[3]);
  const auto engine = must(Engine::open(options));
  const bool waits = check_waits(*engine, prompt_tokens, options.step_ms);
  const bool idle = check_idle(*engine);
  return waits && idle ? 0 : 1;
}
