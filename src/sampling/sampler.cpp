#include "sampling/sampler.hpp"

#include <algorithm>
#include <cassert>
#include <limits>

#include "base/float_state.hpp"
#include "sampling/philox.hpp"

namespace dalsegno {
namespace {

// Anything smaller counts as zero in the floating-point state of the contract.
constexpr float kColdest = std::numeric_limits<float>::min();

}  // namespace

Sampler::Sampler(const SamplingOptions& options, const Kernels& kernels, int vocabulary, Breaks breaks)
    : options_(options), kernels_(&kernels), breaks_(std::move(breaks)), greedy_(options.temperature < kColdest) {
  for (const Stage& stage : kStages) {
    if ((stage.changes_logits || !greedy_) && stage.active(options)) stages_.push_back(&stage);
  }
  const auto size = static_cast<std::size_t>(vocabulary);
  if (!stages_.empty()) logits_.resize(size);
  if (options.repeat_penalty != 1.0F || options.presence_penalty != 0 || options.frequency_penalty != 0) {
    counts_.resize(size);
  }
  if (options.dry_multiplier > 0) {
    longest_.resize(size);
    breaking_.resize(size, -1);
  }
  if (greedy_) return;
  weights_.resize(size);
  order_.resize(size);
}

void Sampler::prepare(std::span<const float> logits, Choice& choice) {
  assert(logits.size() == logits_.size());
  std::copy(logits.begin(), logits.end(), logits_.begin());
  for (const Stage* stage : stages_) (this->*stage->apply)(choice);
}

TokenId Sampler::sample(std::span<const float> logits, std::span<const TokenId> history, int position,
                        std::size_t reply_begin) {
  if (stages_.empty()) return argmax(logits);
  const FloatState float_state;
  Choice choice{.history = history, .reply_begin = reply_begin};
  prepare(logits, choice);
  if (choice.forbidden) return kNoToken;
  if (greedy_) return argmax(logits_);
  return draw(choice, uniform(options_.seed, options_.stream, static_cast<std::uint32_t>(position)));
}

std::vector<std::pair<TokenId, double>> Sampler::distribution(std::span<const float> logits,
                                                              std::span<const TokenId> history,
                                                              std::size_t reply_begin) {
  if (stages_.empty()) return {{argmax(logits), 1.0}};
  const FloatState float_state;
  Choice choice{.history = history, .reply_begin = reply_begin};
  prepare(logits, choice);
  if (choice.forbidden) return {};
  if (greedy_) return {{argmax(logits_), 1.0}};
  std::vector<std::pair<TokenId, double>> chances;
  for (std::size_t i = 0; i < choice.count; ++i) {
    if (weight(i) != 0) chances.emplace_back(order_[i], weight(i) / total(choice));
  }
  return chances;
}

TokenId Sampler::draw(Choice& choice, double point) const {
  const double target = point * total(choice);
  double reached = 0;
  TokenId last = order_[0];
  for (std::size_t i = 0; i < choice.count; ++i) {
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
double Sampler::total(Choice& choice) const {
  if (choice.total >= 0) return choice.total;
  choice.total = 0;
  for (std::size_t i = 0; i < choice.count; ++i) choice.total += weight(i);
  return choice.total;
}

}  // namespace dalsegno
