#include "sampling/sampler.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/float_state.hpp"
#include "sampling/philox.hpp"

namespace dalsegno {
namespace {

// Differences from the maximum stay finite; exp is exactly zero from -87 on.
constexpr float kFarBelow = -1000.0F;
constexpr float kLargest = std::numeric_limits<float>::max();
// Anything smaller counts as zero in the floating-point state of the contract.
constexpr float kColdest = std::numeric_limits<float>::min();
// The first guess at how many candidates top_p keeps; it doubles until enough are sorted.
constexpr std::size_t kFirstSorted = 64;

}  // namespace

Sampler::Sampler(const SamplingOptions& options, const Kernels& kernels, int vocabulary)
    : options_(options), kernels_(&kernels), greedy_(options.temperature < kColdest) {
  const auto size = static_cast<std::size_t>(vocabulary);
  const bool penalised = options.repeat_penalty != 1.0F;
  if (!greedy_ || penalised) logits_.resize(size);
  if (penalised) seen_.resize(size);
  if (greedy_) return;
  weights_.resize(size);
  order_.resize(size);
}

TokenId Sampler::sample(std::span<const float> logits, std::span<const TokenId> history, int position) {
  if (logits_.empty()) return argmax(logits);
  assert(logits.size() == logits_.size());
  const FloatState float_state;
  std::copy(logits.begin(), logits.end(), logits_.begin());
  penalise(history);
  if (greedy_) return argmax(logits_);
  weigh();
  Candidates candidates{.count = logits_.size()};
  std::iota(order_.begin(), order_.end(), 0);
  keep_top_k(candidates);
  candidates.total = sum(candidates.count);
  keep_top_p(candidates);
  keep_min_p(candidates);
  return draw(candidates, uniform(options_.seed, options_.stream, static_cast<std::uint32_t>(position)));
}

// Each token among the last repeat_last ones is made less likely once, however often it occurs.
void Sampler::penalise(std::span<const TokenId> history) {
  if (seen_.empty()) return;
  const float penalty = options_.repeat_penalty;
  const auto recent = history.last(std::min(history.size(), static_cast<std::size_t>(options_.repeat_last)));
  for (const TokenId id : recent) {
    const auto place = static_cast<std::size_t>(id);
    if (place >= seen_.size() || seen_[place] != 0) continue;
    seen_[place] = 1;
    const float logit = logits_[place];
    logits_[place] = std::clamp(logit > 0 ? logit / penalty : logit * penalty, -kLargest, kLargest);
  }
  for (const TokenId id : recent) {
    if (static_cast<std::size_t>(id) < seen_.size()) seen_[static_cast<std::size_t>(id)] = 0;
  }
}

// logits_ become (logit - maximum) / temperature, at most 0; weights_ their exp.
void Sampler::weigh() {
  const float maximum = logits_[static_cast<std::size_t>(argmax(logits_))];
  for (float& logit : logits_) {
    const float scaled = (logit - maximum) / options_.temperature;
    logit = scaled > kFarBelow ? scaled : kFarBelow;
  }
  kernels_->exp_sum(logits_.data(), static_cast<int>(logits_.size()), 0.0F, weights_.data());
}

// Brings the best `wanted` candidates to the front, best first, ties by id.
void Sampler::sort_best(Candidates& candidates, std::size_t wanted) {
  wanted = std::min(wanted, candidates.count);
  if (wanted <= candidates.sorted) return;
  const auto better = [this](TokenId a, TokenId b) {
    const float x = logits_[static_cast<std::size_t>(a)];
    const float y = logits_[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  const auto from = order_.begin() + static_cast<std::ptrdiff_t>(candidates.sorted);
  const auto to = order_.begin() + static_cast<std::ptrdiff_t>(wanted);
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(candidates.count);
  if (to != end) std::nth_element(from, to, end, better);
  std::sort(from, to, better);
  candidates.sorted = wanted;
}

void Sampler::keep_top_k(Candidates& candidates) {
  if (options_.top_k <= 0) return;
  sort_best(candidates, static_cast<std::size_t>(options_.top_k));
  candidates.count = candidates.sorted;
}

// The shortest beginning of the sorted candidates whose share reaches top_p. Tokens below `least` sum to less
// than the share left out, so they are dropped before anything is sorted.
void Sampler::keep_top_p(Candidates& candidates) {
  if (options_.top_p >= 1.0F) return;
  const double share = static_cast<double>(options_.top_p);
  drop_below(candidates, candidates.total * (1 - share) / static_cast<double>(candidates.count));
  const double wanted = share * candidates.total;
  double reached = 0;
  for (std::size_t i = 0; i < candidates.count; ++i) {
    if (i == candidates.sorted) sort_best(candidates, std::max(kFirstSorted, 2 * i));
    reached += weight(i);
    if (reached >= wanted) candidates.count = i + 1;
  }
  candidates.total = reached;
}

// Those at least min_p times as likely as the best, whose weight is exactly 1.
void Sampler::keep_min_p(Candidates& candidates) {
  if (options_.min_p <= 0) return;
  drop_below(candidates, static_cast<double>(options_.min_p));
  candidates.total = sum(candidates.count);
}

// What remains keeps its order, so a sorted beginning stays one.
void Sampler::drop_below(Candidates& candidates, double least) {
  const auto sorted_end = order_.begin() + static_cast<std::ptrdiff_t>(candidates.sorted);
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(candidates.count);
  const auto too_light = [this, least](TokenId id) {
    return static_cast<double>(weights_[static_cast<std::size_t>(id)]) < least;
  };
  const auto dropped = static_cast<std::size_t>(std::count_if(order_.begin(), sorted_end, too_light));
  const auto kept = std::remove_if(order_.begin(), end, too_light);
  candidates.sorted -= dropped;
  candidates.count = static_cast<std::size_t>(kept - order_.begin());
}

TokenId Sampler::draw(const Candidates& candidates, double point) const {
  const double target = point * candidates.total;
  double reached = 0;
  TokenId last = order_[0];
  for (std::size_t i = 0; i < candidates.count; ++i) {
    if (weight(i) == 0) continue;
    last = order_[i];
    reached += weight(i);
    if (reached > target) break;
  }
  return last;
}

double Sampler::weight(std::size_t place) const {
  return static_cast<double>(weights_[static_cast<std::size_t>(order_[place])]);
}

// One chain, front to back, so that the sum has the same bits wherever it is taken.
double Sampler::sum(std::size_t count) const {
  double total = 0;
  for (std::size_t i = 0; i < count; ++i) total += weight(i);
  return total;
}

std::string check(const SamplingOptions& options) {
  if (!std::isfinite(options.temperature) || options.temperature < 0) {
    return fmt::format("temperature must be 0 (greedy) or a positive number, not {}", options.temperature);
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return fmt::format("top_p must be above 0 and at most 1, not {}", options.top_p);
  }
  if (options.top_k < 0) return fmt::format("top_k must be 0 (no limit) or positive, not {}", options.top_k);
  if (!(options.min_p >= 0 && options.min_p < 1)) {
    return fmt::format("min_p must be at least 0 and below 1, not {}", options.min_p);
  }
  if (!std::isfinite(options.repeat_penalty) || options.repeat_penalty <= 0) {
    return fmt::format("repeat_penalty must be a positive number, not {}", options.repeat_penalty);
  }
  if (options.repeat_last < 0) {
    return fmt::format("repeat_last must be 0 or positive, not {}", options.repeat_last);
  }
  return {};
}

}  // namespace dalsegno
