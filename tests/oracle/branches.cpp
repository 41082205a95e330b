#include "oracle/branches.hpp"

#include <algorithm>
#include <utility>

namespace dalsegno::oracle {
namespace {

constexpr std::size_t kMostBranches = 5;
constexpr int kMostRows = 90;  // of one sequence in a step
constexpr std::size_t kLongest = 500;

}  // namespace

std::string Branches::act(const Tokens& prompt, std::vector<Seen>& seen) {
  std::string wrong;
  engine_.scheduler().on_engine_thread([&](KvCache& cache) {
    const int dice = random_.below(10);
    if (live_.empty() || (dice == 0 && live_.size() < kMostBranches)) {
      open(cache, prompt);
    } else if (dice < 3 && live_.size() < kMostBranches) {
      fork(cache);
    } else if (dice == 3) {
      rewind(cache);
    } else if (dice == 4) {
      end(cache);
    } else {
      step(cache, seen);
    }
    wrong = cache.check_invariants();
  });
  return wrong;
}

void Branches::drop_all() {
  engine_.scheduler().on_engine_thread([&](KvCache& cache) {
    while (!live_.empty()) drop(cache, live_.size() - 1);
  });
}

void Branches::leave_room(int tokens) {
  engine_.scheduler().on_engine_thread([&](KvCache& cache) {
    while (!live_.empty() && !cache.could_fit(cache.layout().pages_for(tokens, tokens))) drop(cache, pick());
  });
}

void Branches::drop(KvCache& cache, std::size_t at) {
  cache.close(std::move(live_[at].table));
  live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(at));
}

void Branches::open(KvCache& cache, const Tokens& prompt) {
  const std::string salt = random_.one_in(8) ? "other" : "";
  const int limit = random_.below(static_cast<int>(prompt.size()) + 1);
  KvCache::Opened opened = cache.open(engine_.scheduler().name_space(salt), prompt, limit);
  const auto at = prompt.begin() + opened.reused;
  if (opened.reused % kBlockTokens > 0) counts_.add("resumed within a block");
  live_.push_back({std::move(opened.table), Tokens(prompt.begin(), at), Tokens(at, prompt.end()), opened.reused});
}

void Branches::fork(KvCache& cache) {
  Branch& source = live_[pick()];
  Branch branch{cache.fork(source.table), source.tokens, random_.one_in(2) ? source.next : Tokens(), source.reused};
  live_.push_back(std::move(branch));
  counts_.add("forks");
}

void Branches::rewind(KvCache& cache) {
  Branch& branch = live_[pick()];
  const int kept = cache.rewind(branch.table, random_.below(branch.table.tokens() + 1));
  branch.tokens.resize(static_cast<std::size_t>(kept));
  branch.next.clear();
  branch.reused = kept;
  counts_.add("rewinds");
}

void Branches::end(KvCache& cache) {
  const std::size_t at = pick();
  if (random_.one_in(3)) cache.discard(std::move(live_[at].table));
  drop(cache, at);
}

// What some of the sequences add, as far as there is room for it.
std::vector<Branches::Share> Branches::gather(KvCache& cache) {
  std::vector<Share> shares;
  for (std::size_t at = 0; at < live_.size(); ++at) {
    Branch& branch = live_[at];
    if (random_.one_in(4) || branch.tokens.size() >= kLongest) continue;
    const int rows = 1 + random_.below(random_.one_in(2) ? kMostRows : 4);
    Share share{at, {}};
    for (std::size_t i = 0; std::cmp_less(i, rows); ++i) {
      share.tokens.push_back(i < branch.next.size() ? branch.next[i] : random_.below(264));
    }
    if (cache.extend(branch.table, rows).ok()) shares.push_back(std::move(share));
  }
  return shares;
}

void Branches::step(KvCache& cache, std::vector<Seen>& seen) {
  const std::vector<Share> shares = gather(cache);
  if (shares.empty()) return;
  Tokens tokens;
  std::vector<StepSequence> sequences;
  std::vector<std::int32_t> logit_rows;
  std::vector<std::pair<std::size_t, int>> place;  // of each of these: in `shown`, and its position
  std::vector<Seen> shown;
  for (const Share& share : shares) {
    const Branch& branch = live_[share.branch];
    const int first = static_cast<int>(branch.tokens.size());
    const int rows = static_cast<int>(share.tokens.size());
    sequences.push_back({cache.view(branch.table), static_cast<int>(tokens.size()), rows, first});
    shown.push_back({branch.tokens, {}, branch.reused});
    shown.back().tokens.insert(shown.back().tokens.end(), share.tokens.begin(), share.tokens.end());
    for (int row = 0; row < rows; ++row) {
      if (row + 1 < rows && random_.one_in(2)) continue;
      logit_rows.push_back(static_cast<std::int32_t>(tokens.size()) + row);
      place.emplace_back(shown.size() - 1, first + row);
    }
    tokens.insert(tokens.end(), share.tokens.begin(), share.tokens.end());
  }
  engine_.model().forward({tokens, sequences, logit_rows},
                          [&](int index, std::span<const float> logits, std::span<const float>) {
                            const auto& [which, position] = place[static_cast<std::size_t>(index)];
                            shown[which].logits[position] = bits_of(logits);
                          });
  if (shares.size() > 1) counts_.add("several sequences in a step");
  for (const Share& share : shares) accept(cache, share);
  std::ranges::move(shown, std::back_inserter(seen));
}

// All of what was computed, or its beginning: the rest was a draft.
void Branches::accept(KvCache& cache, const Share& share) {
  Branch& branch = live_[share.branch];
  std::size_t accepted = share.tokens.size();
  if (random_.one_in(3)) {
    accepted = static_cast<std::size_t>(random_.below(static_cast<int>(accepted) + 1));
    if (accepted < share.tokens.size()) counts_.add("drafts rejected");
  }
  cache.commit(branch.table, std::span(share.tokens).first(accepted));
  branch.tokens.insert(branch.tokens.end(), share.tokens.begin(),
                       share.tokens.begin() + static_cast<std::ptrdiff_t>(accepted));
  branch.next.erase(branch.next.begin(),
                    branch.next.begin() + static_cast<std::ptrdiff_t>(std::min(accepted, branch.next.size())));
}

}  // namespace dalsegno::oracle
