#pragma once

#include "dalsegno/result.hpp"
#include "model/config.hpp"
#include "tensor/kv_view.hpp"

namespace dalsegno {

// How a model's layers share K/V pages: the only place where layers become layer groups.
[[nodiscard]] KvLayout kv_layout(const ModelConfig& config, const KvOptions& kv);

// The options in the form in which equal ones mean equal bits for this model: a group larger than the head is the head,
// codes start at a whole block, and what says nothing about the format is 0. Errors: invalid_argument.
Result<KvOptions> kv_options(const ModelConfig& config, const KvOptions& wanted);

}  // namespace dalsegno
