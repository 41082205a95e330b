#include "kernels/levels.hpp"

namespace dalsegno::scalar {
namespace {

// What the compiler cannot know, so that it computes with it. (No instruction.)
template <class T>
inline void hide(T* values) {
  asm volatile("" : : "r"(values) : "memory");
}

}  // namespace

std::uint64_t peak_int8(int rounds) {
  constexpr int kLanes = 32;
  std::int8_t a[kLanes];
  std::int8_t b[kLanes];
  std::int32_t acc[kLanes] = {};
  for (int i = 0; i < kLanes; i++) a[i] = b[i] = 1;
  for (int round = 0; round < rounds; round++) {
    hide(a);
    hide(b);
    for (int i = 0; i < kLanes; i++) acc[i] += a[i] * b[i];
  }
  std::uint64_t multiply_adds = 0;
  for (const std::int32_t lane : acc) multiply_adds += static_cast<std::uint64_t>(lane);
  return 2 * multiply_adds;
}

// bf16 products are summed in double here: see attention_scalar.cpp.
std::uint64_t peak_bf16(int rounds) {
  constexpr int kLanes = 16;
  float a[kLanes];
  float b[kLanes];
  float acc[kLanes] = {};
  for (int i = 0; i < kLanes; i++) a[i] = b[i] = 1;
  for (int round = 0; round < rounds; round++) {
    hide(a);
    hide(b);
    for (int i = 0; i < kLanes; i++) {
      acc[i] = static_cast<float>(static_cast<double>(a[i]) * static_cast<double>(b[i]) + static_cast<double>(acc[i]));
    }
  }
  std::uint64_t multiply_adds = 0;
  for (const float lane : acc) multiply_adds += static_cast<std::uint64_t>(lane);
  return 2 * multiply_adds;
}

}  // namespace dalsegno::scalar
