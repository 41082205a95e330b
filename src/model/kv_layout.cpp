#include "model/kv_layout.hpp"

#include "tensor/kv_groups.hpp"

namespace dalsegno {

KvLayout kv_layout(const ModelConfig& config, KvFormat format) {
  KvLayout layout;
  layout.format = format;
  layout.layers = config.layers;
  layout.kv_heads = config.kv_heads;
  layout.head_dim = config.head_dim;
  return with_window(layout, config.sliding_window, [&](int layer) { return config.windowed(layer); });
}

}  // namespace dalsegno
