#pragma once

#include <cstdint>

namespace dalsegno {

// The element types of GGUF files that can be read; values are the file's own codes.
enum class TensorType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  bf16 = 30,
};

struct TensorTypeTraits {
  TensorType type;
  const char* name;    // as GGUF tools write it: "Q4_K"
  int block_elements;  // elements per block, along the row
  int block_bytes;
};

// The traits of a type code found in a file, or nullptr when it is unknown or unsupported.
[[nodiscard]] const TensorTypeTraits* tensor_type_traits(std::uint32_t code);
[[nodiscard]] inline const TensorTypeTraits& traits(TensorType type) {
  return *tensor_type_traits(static_cast<std::uint32_t>(type));
}

}  // namespace dalsegno
