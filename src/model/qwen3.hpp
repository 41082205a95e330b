#pragma once

#include <memory>

#include "backend/backend.hpp"
#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"
#include "model/config.hpp"
#include "model/model.hpp"

namespace dalsegno {

// Qwen 3, dense: as llama, with each head of q and k normed before half-split RoPE.
Result<std::unique_ptr<Model>> load_qwen3(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                          Backend& backend);

}  // namespace dalsegno
