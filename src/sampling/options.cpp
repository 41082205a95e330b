#include <fmt/format.h>

#include <cmath>

#include "sampling/sampler.hpp"

namespace dalsegno {

std::string check(const SamplingOptions& options, int vocabulary) {
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
  if (!(options.typical_p > 0 && options.typical_p <= 1)) {
    return fmt::format("typical_p must be above 0 and at most 1, not {}", options.typical_p);
  }
  if (!std::isfinite(options.repeat_penalty) || options.repeat_penalty <= 0) {
    return fmt::format("repeat_penalty must be a positive number, not {}", options.repeat_penalty);
  }
  if (options.repeat_last < 0) {
    return fmt::format("repeat_last must be 0 or positive, not {}", options.repeat_last);
  }
  if (!std::isfinite(options.presence_penalty)) {
    return fmt::format("presence_penalty must be a number, not {}", options.presence_penalty);
  }
  if (!std::isfinite(options.frequency_penalty)) {
    return fmt::format("frequency_penalty must be a number, not {}", options.frequency_penalty);
  }
  if (!std::isfinite(options.dry_multiplier) || options.dry_multiplier < 0) {
    return fmt::format("dry_multiplier must be 0 (off) or a positive number, not {}", options.dry_multiplier);
  }
  if (!std::isfinite(options.dry_base) || options.dry_base < 1) {
    return fmt::format("dry_base must be at least 1, not {}", options.dry_base);
  }
  if (options.dry_allowed_length < 0) {
    return fmt::format("dry_allowed_length must be 0 or positive, not {}", options.dry_allowed_length);
  }
  if (options.dry_last < 0) return fmt::format("dry_last must be 0 or positive, not {}", options.dry_last);
  for (const auto& [id, bias] : options.logit_bias) {
    if (id < 0 || id >= vocabulary) {
      return fmt::format("logit_bias names token {}, but the model has tokens 0 to {}", id, vocabulary - 1);
    }
    if (std::isnan(bias)) return fmt::format("logit_bias of token {} is not a number", id);
  }
  return {};
}

}  // namespace dalsegno
