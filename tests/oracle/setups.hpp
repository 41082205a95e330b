#pragma once

#include <span>
#include <string>

#include "oracle/engines.hpp"

namespace dalsegno::oracle {

// Every architecture, K/V format, bound, precision of activations, eviction policy and number of threads, not in every
// combination.
[[nodiscard]] std::span<const Setup> all_setups();
[[nodiscard]] std::string describe(const Setup& setup);

}  // namespace dalsegno::oracle
