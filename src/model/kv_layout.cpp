#include "model/kv_layout.hpp"

namespace dalsegno {

KvLayout kv_layout(const ModelConfig& config, KvFormat format) {
  KvLayout layout;
  layout.format = format;
  layout.layers = config.layers;
  layout.kv_heads = config.kv_heads;
  layout.head_dim = config.head_dim;
  return layout;
}

}  // namespace dalsegno
