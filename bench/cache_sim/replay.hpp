#pragma once

#include <cstdint>
#include <string>

#include "cache_sim/trace.hpp"
#include "dalsegno/result.hpp"

namespace dalsegno::cache_sim {

// In blocks of prompts. Requests too long for the budget are refused and count nowhere else.
struct Outcome {
  std::uint64_t asked = 0;
  std::uint64_t reused = 0;
  std::uint64_t recomputed = 0;  // computed before, and again
  std::uint64_t refused = 0;     // requests
};

// Through a KvCache of the trace's budget, one request after another. Errors: those of KvCache.
Result<Outcome> replay(const Trace& trace, const std::string& policy);

// The least that can be recomputed by a cache that knows the future but keeps to the same rules: requests come one
// after another, each holds all its blocks while it runs, and blocks leave only for room, children before parents.
// What goes is the leaf that is asked for again furthest in the future. A parent is never asked for later than its
// child, so that this is the block of furthest next use of all: Belady's rule, which is optimal for blocks of one size.
Outcome clairvoyant(const Trace& trace);

}  // namespace dalsegno::cache_sim
