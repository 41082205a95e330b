#pragma once

#include <array>
#include <cstddef>
#include <stop_token>

#include "base/thread_pool.hpp"
#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"
#include "model/config.hpp"

namespace dalsegno {

// SHA-256 over the config that changes bits and over every tensor's name, type, shape and bytes,
// so that two files with the same fingerprint compute the same logits. Tensors are hashed in pieces
// of 1 MiB on all threads, and the pieces' hashes in order. Files hashed before are recognised.
// Errors: cancelled.
Result<std::array<std::byte, 32>> fingerprint(const GgufFile& file, const ModelConfig& config, ThreadPool& pool,
                                              const std::stop_token& cancel = {});

}  // namespace dalsegno
