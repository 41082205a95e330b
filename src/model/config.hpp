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
  float rope_position_scale = 1.0F;  // 1 / factor of linear scaling
  int sliding_window = 0;            // 0: none
  bool tied_output = false;          // no "output.weight": the embedding serves
};

// Architectures whose config is understood; only those with a row in model/registry.cpp also run.
[[nodiscard]] bool config_supported(const std::string& architecture);

// Errors: corrupt (missing or wrongly typed keys, impossible sizes, tensors missing or whose shapes
// contradict the sizes, each named), unsupported (another architecture, another RoPE scaling type).
Result<ModelConfig> read_config(const GgufFile& file);

}  // namespace dalsegno
