#include "tensor/tensor_type.hpp"

#include <array>

namespace dalsegno {
namespace {

// Sizes: a block of 32 has its codes and one or two f16; a super-block of 256 has 12 or 16
// bytes of packed 6- or 8-bit scales and one or two f16.
constexpr std::array<TensorTypeTraits, 12> kTypes{{
    {TensorType::f32, "F32", 1, 4},
    {TensorType::f16, "F16", 1, 2},
    {TensorType::bf16, "BF16", 1, 2},
    {TensorType::q8_0, "Q8_0", 32, 2 + 32},
    {TensorType::q4_0, "Q4_0", 32, 2 + 16},
    {TensorType::q4_1, "Q4_1", 32, 4 + 16},
    {TensorType::q5_0, "Q5_0", 32, 2 + 4 + 16},
    {TensorType::q5_1, "Q5_1", 32, 4 + 4 + 16},
    {TensorType::iq4_nl, "IQ4_NL", 32, 2 + 16},
    {TensorType::q4_k, "Q4_K", 256, 4 + 12 + 128},
    {TensorType::q5_k, "Q5_K", 256, 4 + 12 + 32 + 128},
    {TensorType::q6_k, "Q6_K", 256, 128 + 64 + 16 + 2},
}};

}  // namespace

const TensorTypeTraits* tensor_type_traits(std::uint32_t code) {
  for (const TensorTypeTraits& entry : kTypes) {
    if (static_cast<std::uint32_t>(entry.type) == code) return &entry;
  }
  return nullptr;
}

}  // namespace dalsegno
