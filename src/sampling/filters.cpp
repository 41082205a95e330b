#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/math.hpp"
#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

// Differences from the maximum stay finite; exp is exactly zero from -87 on.
constexpr float kFarBelow = -1000.0F;
constexpr float kForbidden = -std::numeric_limits<float>::max();
// The first guess at how many candidates a share takes; it doubles until enough are sorted.
constexpr std::size_t kFirstSorted = 64;

}  // namespace

bool Sampler::likelier(TokenId a, TokenId b) const {
  const float x = logits_[static_cast<std::size_t>(a)];
  const float y = logits_[static_cast<std::size_t>(b)];
  return x != y ? x > y : a < b;
}

// logits_ become (logit - maximum) / temperature, at most 0; weights_ their exp. Forbidden ones are zero at any
// temperature.
void Sampler::weigh(Choice& choice) {
  const float maximum = logits_[static_cast<std::size_t>(argmax(logits_))];
  for (float& logit : logits_) {
    const float scaled = (logit - maximum) / options_.temperature;
    logit = scaled > kFarBelow && (logit != kForbidden || maximum == kForbidden) ? scaled : kFarBelow;
  }
  kernels_->exp_sum(logits_.data(), static_cast<int>(logits_.size()), 0.0F, weights_.data());
  std::iota(order_.begin(), order_.end(), 0);
  choice.count = order_.size();
}

// Brings the first `wanted` candidates by `better` to the front, in order.
template <class Better>
void Sampler::sort_front(Choice& choice, std::size_t wanted, const Better& better) {
  wanted = std::min(wanted, choice.count);
  if (wanted <= choice.sorted) return;
  const auto from = order_.begin() + static_cast<std::ptrdiff_t>(choice.sorted);
  const auto to = order_.begin() + static_cast<std::ptrdiff_t>(wanted);
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(choice.count);
  if (to != end) std::nth_element(from, to, end, better);
  std::sort(from, to, better);
  choice.sorted = wanted;
}

// The shortest beginning of the candidates in the order of `better` that weighs at least `share`.
template <class Better>
void Sampler::keep_share(Choice& choice, double share, const Better& better) {
  double reached = 0;
  for (std::size_t i = 0; i < choice.count; ++i) {
    if (i == choice.sorted) sort_front(choice, std::max(kFirstSorted, 2 * i), better);
    reached += weight(i);
    if (reached >= share) choice.count = i + 1;
  }
  choice.sorted = std::min(choice.sorted, choice.count);
  choice.total = reached;
}

void Sampler::keep_top_k(Choice& choice) {
  sort_front(choice, static_cast<std::size_t>(options_.top_k), [this](TokenId a, TokenId b) { return likelier(a, b); });
  choice.count = choice.sorted;
  choice.total = -1;
}

// Locally typical sampling (Meister and others, 2022): those whose surprise is nearest to the entropy.
void Sampler::keep_typical(Choice& choice) {
  const double all = total(choice);
  const double log_all = exact_log(all);
  const auto surprise = [&](TokenId id) {
    return log_all - static_cast<double>(logits_[static_cast<std::size_t>(id)]);
  };
  double entropy = 0;
  for (std::size_t i = 0; i < choice.count; ++i) entropy += weight(i) / all * surprise(order_[i]);
  const auto nearer = [&](TokenId a, TokenId b) {
    const double x = std::abs(surprise(a) - entropy);
    const double y = std::abs(surprise(b) - entropy);
    return x != y ? x < y : likelier(a, b);
  };
  choice.sorted = 0;
  keep_share(choice, static_cast<double>(options_.typical_p) * all, nearer);
  choice.sorted = 0;  // by their chances they are not
}

// The shortest beginning of the sorted candidates whose share reaches top_p. Tokens below `least` sum to less
// than the share left out, so they are dropped before anything is sorted.
void Sampler::keep_top_p(Choice& choice) {
  const auto share = static_cast<double>(options_.top_p);
  const double all = total(choice);
  drop_below(choice, all * (1 - share) / static_cast<double>(choice.count));
  keep_share(choice, share * all, [this](TokenId a, TokenId b) { return likelier(a, b); });
}

// Those at least min_p times as likely as the likeliest.
void Sampler::keep_min_p(Choice& choice) {
  double best = 0;
  for (std::size_t i = 0; i < choice.count; ++i) best = std::max(best, weight(i));
  drop_below(choice, static_cast<double>(options_.min_p) * best);
  choice.total = -1;
}

// What remains keeps its order, so a sorted beginning stays one.
void Sampler::drop_below(Choice& choice, double least) {
  const auto sorted_end = order_.begin() + static_cast<std::ptrdiff_t>(choice.sorted);
  const auto end = order_.begin() + static_cast<std::ptrdiff_t>(choice.count);
  const auto too_light = [this, least](TokenId id) {
    return static_cast<double>(weights_[static_cast<std::size_t>(id)]) < least;
  };
  const auto dropped = static_cast<std::size_t>(std::count_if(order_.begin(), sorted_end, too_light));
  const auto kept = std::remove_if(order_.begin(), end, too_light);
  choice.sorted -= dropped;
  choice.count = static_cast<std::size_t>(kept - order_.begin());
}

}  // namespace dalsegno
