#pragma once

#include <memory>

#include "backend/backend.hpp"
#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"
#include "model/config.hpp"
#include "model/model.hpp"

namespace dalsegno {

// Qwen 2 and 2.5: as llama, with biases of q, k and v and half-split RoPE.
Result<std::unique_ptr<Model>> load_qwen2(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                          Backend& backend);

}  // namespace dalsegno
