#include "runtime/self_audit.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "cache/block_table.hpp"

namespace dalsegno {
namespace {

// What waits to be audited when a busy engine falls idle is bounded: at most so many blocks.
constexpr double kMostCredit = 1024;
// Rows of the step that computes a block again, at most.
constexpr int kMostRows = 128;

}  // namespace

void SelfAudit::earn(int tokens) {
  credit_ = std::min(kMostCredit, credit_ + share_ * tokens / kBlockTokens);
}

void SelfAudit::audit_one() {
  credit_ = std::max(0.0, credit_ - 1);
  const auto sample = cache_.sample(random_(), kMostRows / kBlockTokens);
  if (!sample) {
    ++report_.skipped;
    return;
  }
  audit(*sample);
}

// Where layers slide, the nearest place to resume from may be some blocks before.
void SelfAudit::audit(const KvCache::Sample& sample) {
  const int end = static_cast<int>(sample.tokens.size());
  KvCache::Opened opened = cache_.open(sample.name_space, sample.tokens, end - kBlockTokens);
  const int begin = opened.reused;
  const int rows = end - begin;
  if (rows > kMostRows || !cache_.extend(opened.table, rows).ok()) {
    ++report_.skipped;
  } else {
    const std::span<const TokenId> tokens = std::span(sample.tokens).subspan(static_cast<std::size_t>(begin));
    const StepSequence sequence{cache_.view(opened.table), 0, rows, begin};
    model_.forward({tokens, {&sequence, 1}, {}}, [](int, std::span<const float>, std::span<const float>) {});
    compare(sample, sequence.kv);
  }
  cache_.discard(std::move(opened.table));
}

void SelfAudit::compare(const KvCache::Sample& sample, const KvView& computed) {
  const auto cached = cache_.pages_of(sample.name_space, sample.tokens);
  if (!cached) {
    ++report_.skipped;
    return;
  }
  const KvLayout& layout = *computed.layout;
  const std::size_t block = sample.tokens.size() / kBlockTokens - 1;
  const bool early = layout.is_early(static_cast<int>(block));
  ++report_.checked;
  for (int layer = 0; layer < layout.layers; ++layer) {
    const std::byte* own = computed.pages_for(layer, early)[block];
    const std::byte* theirs = (*cached)[static_cast<std::size_t>(layout.slice_of(layer, early))];
    // A window's block that is not kept cannot be reused either.
    if (own == nullptr || theirs == nullptr) continue;
    const std::size_t at = layout.k_offset(layer, 0, early);
    if (std::memcmp(own + at, theirs + at, layout.layer_bytes(early)) == 0) continue;
    ++report_.mismatched;
    report_.last_mismatch =
        fmt::format("tokens {} to {} of a cached prefix: K/V of layer {} differ from what they were computed from",
                    block * kBlockTokens, sample.tokens.size() - 1, layer);
    cache_.quarantine(sample.name_space);
    return;
  }
}

}  // namespace dalsegno
