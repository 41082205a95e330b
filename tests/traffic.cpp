// traffic MODEL.gguf SCENARIO [THREADS]: one scenario of many requests, as scripts/traffic_compare sends it to other
// programs too. Prints one JSON object.
//   fan     32 requests that share 1,024 tokens, 64 new tokens each, sent at once
//   talk    6 conversations with one system prompt, interleaved, 4 turns each; then back to a branch that was left
//   cancel  a prompt of 4,000 tokens, cancelled half-way and sent again
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "dalsegno/batch.hpp"
#include "dalsegno/session.hpp"

namespace dalsegno {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kThroughout = 64;

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

template <class T>
T must(Result<T> result) {
  if (!result.ok()) {
    fmt::print(stderr, "error: {}\n", result.error().message);
    std::exit(1);
  }
  return std::move(result).value();
}

// The same words for every program: `count` of them, chosen by `seed`.
std::string words(int count, unsigned seed) {
  constexpr const char* kWords[] = {"river", "stone", "light", "garden", "winter", "bread",  "letter", "mountain",
                                    "song",  "glass", "road",  "summer", "window", "silver", "paper",  "harbour"};
  std::string text;
  for (int i = 0; i < count; ++i) {
    seed = seed * 1664525U + 1013904223U;
    text += std::string(i > 0 ? " " : "") + kWords[seed >> 28];
  }
  return text;
}

std::vector<TokenId> ids(Engine& engine, const std::string& text, std::size_t count) {
  std::vector<TokenId> all = must(engine.tokenizer().encode(text, {}));
  if (all.size() < count) std::exit(1);
  all.resize(count);
  return all;
}

GenerateOptions greedy(Engine& engine, int tokens) {
  GenerateOptions options;
  options.max_tokens = tokens;
  const Tokenizer& tokenizer = engine.tokenizer();
  for (TokenId id = 0; id < tokenizer.vocabulary_size(); ++id) {
    if (tokenizer.is_end_of_turn(id))
      options.sampling.logit_bias.emplace_back(id, std::numeric_limits<float>::lowest());
  }
  return options;
}

void fan(Engine& engine) {
  const std::vector<TokenId> prefix = ids(engine, words(2000, 1), 1024);
  BatchGenerator batch(engine);
  std::vector<BatchRequest> requests;
  for (unsigned i = 0; i < 32; ++i) {
    BatchRequest request{.prompt = prefix, .options = greedy(engine, kThroughout)};
    const std::vector<TokenId> own = ids(engine, words(20, 100 + i), 8);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    requests.push_back(std::move(request));
  }
  const auto begin = Clock::now();
  (void)must(batch.insert(std::move(requests)));
  int first = 0;
  int prefilled = 0;
  int tokens = 0;
  int by_then = 0;
  double all_begun = 0;
  std::vector<bool> seen(64);
  for (auto responses = batch.next(); !responses.empty(); responses = batch.next()) {
    for (const BatchResponse& response : responses) {
      ++tokens;
      if (!seen[response.uid]) {
        seen[response.uid] = true;
        if (++first == 32) all_begun = ms_since(begin);
      }
      if (response.finish_reason) prefilled += response.usage.prefilled_tokens;
    }
    if (by_then == 0 && first == 32) by_then = tokens;
  }
  const double wall = ms_since(begin);
  fmt::print(R"({{"wall_ms":{:.1f},"prefilled_tokens":{},"tokens":{},"decode_tokens_per_second":{:.1f}}})"
             "\n",
             wall, prefilled, tokens, 1e3 * (tokens - by_then) / (wall - all_begun));
}

void talk(Engine& engine) {
  const GenerateOptions options = greedy(engine, 40);
  std::vector<Session> sessions;
  std::vector<double> later;
  int unexpected = 0;  // prefilled beyond what is new
  for (int i = 0; i < 6; ++i) sessions.push_back(must(Session::create(engine, {.instructions = words(350, 7)})));
  for (unsigned turn = 0; turn < 4; ++turn) {
    for (unsigned i = 0; i < 6; ++i) {
      const Reply reply = must(sessions[i].respond(words(30, 1000 + 10 * turn + i), options));
      if (turn == 0) continue;
      later.push_back(reply.ttft_ms);
      // Of what was there: all but the reply's last token, which has no K/V yet.
      const ReplyReport& before = sessions[i].reports()[turn - 1];
      unexpected += std::max(0, before.usage.prompt_tokens + before.usage.reply_tokens - 1 - reply.usage.reused_tokens);
    }
  }
  // Back to a question of turn 2 in the first conversation, as it was asked then.
  if (const auto back = sessions[0].rewind(1); !back.ok()) std::exit(1);
  const Reply again = must(sessions[0].respond(words(30, 1010), options));
  std::ranges::sort(later);
  fmt::print(R"({{"ttft_ms":{:.2f},"recomputed_tokens":{},"branch_prefilled_tokens":{},"branch_ttft_ms":{:.2f}}})"
             "\n",
             later[later.size() / 2], unexpected, again.usage.prefilled_tokens, again.ttft_ms);
}

void cancel(Engine& engine) {
  const std::vector<TokenId> prompt = ids(engine, words(6000, 3), 4000);
  const GenerateOptions options = greedy(engine, 1);
  int done_then = 0;
  GenerateCallbacks callbacks;
  callbacks.on_prefill = [&](int done, int total) {
    done_then = done;
    return 2 * done < total;
  };
  const Reply half = must(engine.generate(prompt, options, callbacks));
  const Reply whole = must(engine.generate(prompt, options));
  fmt::print(R"({{"cancelled":{},"done_tokens":{},"reused_tokens":{},"prefilled_tokens":{}}})"
             "\n",
             half.finish_reason == FinishReason::cancelled, done_then, whole.usage.reused_tokens,
             whole.usage.prefilled_tokens);
}

int run(int argc, char** argv) {
  const std::string scenario = argc > 2 ? argv[2] : "";
  if (scenario != "fan" && scenario != "talk" && scenario != "cancel") {
    fmt::print(stderr, "usage: traffic MODEL.gguf fan|talk|cancel [THREADS]\n");
    return 2;
  }
  EngineOptions options;
  options.model_path = argv[1];
  options.threads = argc > 3 ? std::atoi(argv[3]) : 0;
  const auto engine = must(Engine::open(options));
  // The first step touches memory that later ones find in place.
  (void)must(engine->generate(ids(*engine, words(40, 9), 30), greedy(*engine, 4)));
  if (scenario == "fan") fan(*engine);
  if (scenario == "talk") talk(*engine);
  if (scenario == "cancel") cancel(*engine);
  return 0;
}

}  // namespace
}  // namespace dalsegno

int main(int argc, char** argv) {
  return dalsegno::run(argc, argv);
}
