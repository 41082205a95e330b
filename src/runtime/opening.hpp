#pragma once

#include <cstdint>
#include <string>

#include "dalsegno/engine.hpp"
#include "gguf/gguf.hpp"
#include "model/config.hpp"
#include "store/checksum.hpp"

namespace dalsegno {

// What opening an engine takes, told by a file's header: the code that loads is run without its weights, so that what
// is said here is what loading reserves, to the byte.

inline constexpr int kMaxThreads = 256;
// Buffers of a cache that is saved or loaded: the pieces that are read or written and one that is being used. Set apart
// when an engine opens, so that what is cached can be saved however full the budget is by then.
inline constexpr std::uint64_t kSavingBytes = 4 * kChecksumPiece;
[[nodiscard]] int worker_threads(const EngineOptions& options);
// 0: the model's own.
[[nodiscard]] int context_of(const EngineOptions& options, const ModelConfig& config);
// Errors: invalid_argument (the model was not made for so many tokens).
Result<void> check_context(const EngineOptions& options, const ModelConfig& config);

// In bytes, of the memory budget.
struct MemoryNeeds {
  std::uint64_t weights = 0;
  std::uint64_t work = 0;   // buffers of a step and of saving, RoPE tables, the vocabulary
  std::uint64_t cache = 0;  // K/V of one sequence of so many tokens, and the index of them
  [[nodiscard]] std::uint64_t total() const { return weights + work + cache; }
};
// tokens: 1 to context_of(). Requires: check_context().
// Errors: those of loading that the header tells.
Result<MemoryNeeds> memory_needs(const GgufFile& file, const ModelConfig& config, const EngineOptions& options,
                                 int tokens);

}  // namespace dalsegno
