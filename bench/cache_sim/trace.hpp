#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"

namespace dalsegno::cache_sim {

// Blocks are named by numbers: equal numbers after equal prefixes are the same block.
using Blocks = std::vector<std::uint32_t>;

struct Request {
  Blocks prompt;
  Blocks reply;
};

struct Trace {
  std::string name;
  std::vector<Request> requests;
  std::uint32_t budget = 0;  // blocks that fit
};

// Different blocks that the trace writes.
std::uint32_t unique_blocks(const Trace& trace);

// Six conversations of eight turns, in turns or shuffled; the budget holds half of them.
Trace round_robin(std::uint64_t seed);
Trace random_order(std::uint64_t seed);
// Agents of four kinds, each kind with its own tools behind one system prompt; eight work at a time.
Trace agents(std::uint64_t seed);
// Conversations of one to twelve turns that come and go, behind one of three system prompts.
Trace chat(std::uint64_t seed);
// Batches of questions behind the examples of one of twelve tasks.
Trace few_shot(std::uint64_t seed);
// Twenty prompts that people come back to, at first and at the end; 10,000 that nobody asks twice in between.
Trace scan(std::uint64_t seed);
std::vector<Trace> generated(std::uint64_t seed);

// Reads lines such as {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, 2]}; only the
// identities of blocks matter. Errors: not_found, corrupt (with the line's number).
Result<Trace> import_trace(const std::string& path);
Result<Trace> parse_trace(std::string_view text);

}  // namespace dalsegno::cache_sim
