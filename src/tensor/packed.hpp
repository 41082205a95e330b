#pragma once

#include <cstddef>
#include <cstdint>

namespace dalsegno {

// The forms in which weights lie in memory. Every GGUF type maps to one of them exactly.
// Quantised ones come in groups of 32 along K; "min" formats add a minimum per group.
enum class PackedFormat : std::uint8_t {
  w8,        // 8-bit codes, f16 scale            <- Q8_0, IQ4_NL
  w4,        // 4-bit codes - 8, f16 scale        <- Q4_0
  w5,        // 5-bit codes - 16, f16 scale       <- Q5_0
  w4_min,    // 4-bit codes, f16 scale and min    <- Q4_1
  w4_min32,  // 4-bit codes, f32 scale and min    <- Q4_K
  w5_min32,  // 5-bit codes, f32 scale and min    <- Q5_1, Q5_K
  w6_half,   // 6-bit codes - 32, an f32 scale per 16  <- Q6_K
  f32,
  f16,
  bf16,
};
inline constexpr int kPackedFormats = 10;
[[nodiscard]] constexpr bool is_float(PackedFormat format) {
  return format >= PackedFormat::f32;
}

inline constexpr int kPanelColumns = 32;
inline constexpr int kGroup = 32;

// A weight matrix W [n outputs, k inputs] in panels of 32 output columns; the last panel is
// padded with columns of scale 0 whose results are never stored. Within a panel, groups
// of 32 along k ascending; the byte layout of a group is drawn in tensor/packing.hpp.
// Float formats: [k][32 columns] elements, no groups.
// POD: does not own `data` (64-byte aligned).
struct PackedMatrix {
  PackedFormat format = PackedFormat::f32;
  int n = 0;
  int k = 0;
  int panels = 0;
  std::size_t panel_bytes = 0;
  const std::byte* data = nullptr;

  [[nodiscard]] const std::byte* panel(int p) const { return data + static_cast<std::size_t>(p) * panel_bytes; }
};

}  // namespace dalsegno
