#pragma once

#include <cstdint>
#include <string>

#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"

namespace dalsegno {

// The sizes of a transformer, read from the metadata of a GGUF file and checked against
// its tensors. Covers the keys shared by the decoder families (llama, qwen2, qwen3, gemma3).
struct ModelConfig {
  std::string architecture;
  std::string name;
  int layers = 0;
  int hidden = 0;
  int feed_forward = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int vocabulary = 0;
  int context = 0;
  float norm_eps = 0;
  int rope_dims = 0;
  float rope_base = 10000.0F;
  float rope_position_scale = 1.0F;   // 1 / factor of linear scaling
  int sliding_window = 0;             // of windowed layers: a token sees itself and the window - 1 before it; 0: none
  int full_attention_every = 1;       // layers n - 1, 2n - 1, ... look back without limit, the others are windowed
  float window_rope_base = 10000.0F;  // of windowed layers, whose positions are not scaled
  float attention_scale = 0;          // scores are multiplied by it
  bool tied_output = false;           // no "output.weight": the embedding serves

  [[nodiscard]] bool windowed(int layer) const { return sliding_window > 0 && (layer + 1) % full_attention_every != 0; }
  [[nodiscard]] int windowed_layers() const { return sliding_window > 0 ? layers - layers / full_attention_every : 0; }
};

// Architectures whose config is understood; only those with a row in model/registry.cpp also run.
[[nodiscard]] bool config_supported(const std::string& architecture);

// Errors: corrupt (missing or wrongly typed keys, impossible sizes, tensors missing or whose shapes
// contradict the sizes, each named), unsupported (another architecture, another RoPE scaling type).
Result<ModelConfig> read_config(const GgufFile& file);

}  // namespace dalsegno
