#include "cli/bench_check.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "dalsegno/diagnostics.hpp"

namespace dalsegno::cli {
namespace {

constexpr int kTokens = 256;
constexpr int kBriefTokens = 40;
constexpr int kOddChunk = 7;  // neither a tile nor a block
constexpr int kBatchChunk = 16;
constexpr int kNeighbours = 3;
constexpr int kLast = 8;  // tokens of the prompt that are also computed one at a time

std::vector<TokenId> some_prompt(int count, int vocabulary, int salt) {
  std::vector<TokenId> ids;
  for (int i = 0; i < count; ++i) ids.push_back(static_cast<TokenId>((i * 7919L + salt * 104729L + 17) % vocabulary));
  return ids;
}

Result<std::string> hash(Engine& engine, const std::vector<TokenId>& ids, int from, int chunk) {
  ScoreOptions options;
  options.nll = false;
  options.hash = true;
  options.from = from;
  options.chunk = chunk;
  DALSEGNO_ASSIGN(scored, score(engine, ids, options));
  return scored.hash;
}

// While other prompts run, too. All take a dozen steps, so they meet.
Result<std::string> hash_in_batch(Engine& engine, const std::vector<TokenId>& ids) {
  const int vocabulary = engine.tokenizer().vocabulary_size();
  std::vector<std::thread> neighbours;
  for (int i = 1; i <= kNeighbours; ++i) {
    neighbours.emplace_back([&engine, vocabulary, i, count = static_cast<int>(ids.size())] {
      (void)hash(engine, some_prompt(count, vocabulary, i), 0, kBatchChunk);
    });
  }
  auto result = hash(engine, ids, 0, kBatchChunk);
  for (std::thread& each : neighbours) each.join();
  return result;
}

Result<void> expect(const std::string& expected, Result<std::string> found, const char* how) {
  if (!found.ok()) return std::move(found).error();
  if (*found == expected) return {};
  return Error{
      ErrorCode::numeric,
      fmt::format("nothing was measured, because the answer is wrong: the logits of a prompt have other bits {}", how)};
}

}  // namespace

Result<std::unique_ptr<Engine>> open_checked(const CommonOptions& options, bool brief) {
  CommonOptions other = options;
  other.engine.threads = options.engine.threads == 1 ? 2 : 1;
  std::vector<TokenId> ids;
  std::string whole;
  {
    DALSEGNO_ASSIGN(engine, open_engine(other));
    const int count = std::min(brief ? kBriefTokens : kTokens, engine->context());
    ids = some_prompt(count, engine->tokenizer().vocabulary_size(), 0);
    DALSEGNO_ASSIGN(first, hash(*engine, ids, 0, count));
    whole = first;
  }
  DALSEGNO_ASSIGN(engine, open_engine(options));
  const int count = static_cast<int>(ids.size());
  DALSEGNO_TRY(expect(whole, hash(*engine, ids, 0, count), "on another number of threads"));
  DALSEGNO_TRY(expect(whole, hash(*engine, ids, 0, kOddChunk), "when it is computed in chunks"));
  DALSEGNO_TRY(expect(whole, hash_in_batch(*engine, ids), "within a batch"));
  const int last = std::max(0, count - kLast);
  DALSEGNO_ASSIGN(tail, hash(*engine, ids, last, count));
  DALSEGNO_TRY(expect(tail, hash(*engine, ids, last, 1), "when it is computed token by token"));
  return engine;
}

}  // namespace dalsegno::cli
