#include "oracle/reference.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace dalsegno::oracle {
namespace {

constexpr int kChunk = 512;
constexpr int kLongest = 650;  // tokens

bool begins_with(const Tokens& tokens, const Tokens& beginning) {
  return beginning.size() <= tokens.size() && std::equal(beginning.begin(), beginning.end(), tokens.begin());
}

}  // namespace

// Compares each position with what was seen of it, as it comes.
class Reference::Watcher final : public Waiter {
 public:
  explicit Watcher(const std::vector<Seen>& seen) : seen_(seen) {}
  Decision on_logits(int position, std::span<const float> logits, std::span<const TokenId>) override {
    const Bits bits = bits_of(logits);
    for (const Seen& each : seen_) {
      const auto at = each.logits.find(position);
      if (at == each.logits.end()) continue;
      ++compared;
      if (at->second == bits || !wrong.empty()) continue;
      wrong = fmt::format("the logits of position {} of {} differ, {} tokens having been reused", position,
                          each.tokens.size(), each.reused);
    }
    return {};
  }
  std::uint64_t compared = 0;
  std::string wrong;

 private:
  const std::vector<Seen> seen_;
};

// A page of its own in its first extent of pages, so that no other engine is ever given that.
Reference::Reference(const Setup& setup) : engine_(open({setup.model, setup.kv, 1, setup.activation_bits})) {
  engine_->scheduler().on_engine_thread([this](KvCache& cache) {
    anchor_ = cache.open_private();
    BlockTable longest = cache.open_private();
    if (!cache.extend(anchor_, 1).ok() || !cache.extend(longest, kLongest).ok()) std::abort();
    cache.discard(std::move(longest));
  });
}

Reference::~Reference() {
  for (const Conversation& each : under_way_) static_cast<void>(each.watcher->wait());
  engine_->scheduler().on_engine_thread([this](KvCache& cache) { cache.discard(std::move(anchor_)); });
}

std::string Reference::judge(std::vector<Seen> seen) {
  std::string wrong;
  for (const Conversation& each : std::exchange(under_way_, {})) {
    const Result<FinishReason> end = each.watcher->wait();
    std::uint64_t expected = 0;
    for (const Seen& one : each.seen) expected += one.logits.size();
    if (wrong.empty()) wrong = end.ok() ? each.watcher->wrong : end.error().message;
    if (wrong.empty() && each.watcher->compared != expected) wrong = "the reference did not compute every position";
    compared_ += each.watcher->compared;
  }
  start(std::move(seen));
  return wrong;
}

// In lexicographic order those that begin alike are neighbours, the longest last.
void Reference::start(std::vector<Seen> seen) {
  std::erase_if(seen, [](const Seen& each) { return each.logits.empty(); });
  std::ranges::sort(seen, {}, &Seen::tokens);
  std::vector<Work> work;
  while (!seen.empty()) {
    Conversation conversation;
    Tokens tokens = seen.back().tokens;
    int first = static_cast<int>(tokens.size());
    while (!seen.empty() && begins_with(tokens, seen.back().tokens)) {
      first = std::min(first, seen.back().logits.begin()->first);
      conversation.seen.push_back(std::move(seen.back()));
      seen.pop_back();
    }
    conversation.watcher = std::make_shared<Watcher>(conversation.seen);
    computed_ += tokens.size();
    work.push_back({conversation.watcher, std::move(tokens), first, kChunk, false});
    under_way_.push_back(std::move(conversation));
  }
  engine_->scheduler().submit(std::move(work));
}

}  // namespace dalsegno::oracle
