#pragma once

#include <memory>

#include "backend/backend.hpp"
#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"
#include "model/config.hpp"
#include "model/model.hpp"

namespace dalsegno {

// Gemma 3, text: embeddings times sqrt(hidden), windowed and full layers with a RoPE base each, heads of q and k
// normed, outputs of both blocks normed before the residual, GELU gates. Norm weights are used as the file has them.
Result<std::unique_ptr<Model>> load_gemma3(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                           Backend& backend);

}  // namespace dalsegno
