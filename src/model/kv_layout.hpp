#pragma once

#include "model/config.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {

// How a model's layers share K/V pages: the only place where layers become layer groups.
[[nodiscard]] KvLayout kv_layout(const ModelConfig& config, KvFormat format);

}  // namespace dalsegno
