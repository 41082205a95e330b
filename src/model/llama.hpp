#pragma once

#include <memory>

#include "backend/backend.hpp"
#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"
#include "model/config.hpp"
#include "model/model.hpp"

namespace dalsegno {

// The llama family: RMSNorm, grouped-query attention with interleaved RoPE (linear scaling and
// frequency divisors where the file has them), SiLU-gated feed-forward, tied or untied output, biases where present.
Result<std::unique_ptr<Model>> load_llama(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                          Backend& backend);

}  // namespace dalsegno
