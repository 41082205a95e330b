#include <algorithm>
#include <numeric>

#include "base/math.hpp"
#include "sampling/sampler.hpp"

namespace dalsegno {
namespace {

double log_of_sum(std::span<const float> logits) {
  const double maximum = logits[static_cast<std::size_t>(argmax(logits))];
  return maximum + exact_log(exact_exp_sum(logits, maximum));
}

}  // namespace

LogProbs log_probs(std::span<const float> logits, int k) {
  LogProbs result{.log_sum_exp = log_of_sum(logits), .top = {}};
  if (k <= 0) return result;
  const std::size_t count = std::min(logits.size(), static_cast<std::size_t>(k));
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto better = [logits](TokenId a, TokenId b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(count);
  if (end != order.end()) std::nth_element(order.begin(), end, order.end(), better);
  std::sort(order.begin(), end, better);
  result.top.reserve(count);
  for (auto id = order.begin(); id != end; ++id) {
    result.top.emplace_back(*id, static_cast<double>(logits[static_cast<std::size_t>(*id)]) - result.log_sum_exp);
  }
  return result;
}

}  // namespace dalsegno
