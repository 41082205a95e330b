#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.hpp"
#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"
#include "model/config.hpp"
#include "model/model.hpp"

namespace dalsegno {

// True for architectures that this version runs.
[[nodiscard]] bool runnable(const std::string& architecture);

// Repacks the weights of `file` into the backend and returns the model.
// Errors: unsupported (architecture), corrupt, exhausted.
Result<std::unique_ptr<Model>> load_model(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                          Backend& backend);

// Bytes of the weights once they are repacked.
[[nodiscard]] std::uint64_t packed_weight_bytes(const GgufFile& file);

}  // namespace dalsegno
