#include "backend/cpu/cpu_rope.hpp"

#include <algorithm>

#include "base/math.hpp"

namespace dalsegno {

std::vector<float> rope_frequencies(const RopeConfig& config) {
  std::vector<float> frequencies(static_cast<std::size_t>(config.dims / 2));
  for (int i = 0; i < config.dims / 2; ++i) {
    auto frequency = static_cast<float>(exact_pow(config.base, -2.0 * i / config.dims));
    if (config.divisors != nullptr) frequency = frequency / config.divisors[i];
    frequencies[static_cast<std::size_t>(i)] = frequency * config.position_scale;
  }
  return frequencies;
}

void fill_rope(const CpuRope& rope, int positions) {
  // Some positions ahead, so that decoding does not come here each step.
  constexpr int kAhead = 64;
  if (positions <= rope.filled) return;
  const int until = std::min(positions + kAhead, rope.positions);
  const std::size_t half = rope.frequencies.size();
  for (int position = rope.filled; position < until; ++position) {
    for (std::size_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(position) * rope.frequencies[i];
      const std::size_t at = static_cast<std::size_t>(position) * half + i;
      rope.cos[at] = static_cast<float>(exact_cos(angle));
      rope.sin[at] = static_cast<float>(exact_sin(angle));
    }
  }
  rope.filled = until;
}

}  // namespace dalsegno
