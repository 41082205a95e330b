#pragma once

#include <cstddef>
#include <cstdint>

#include "dalsegno/types.hpp"

namespace dalsegno {

// Tokens per block. 16 keys are one SIMD group; an attention tile of 64 is four blocks.
inline constexpr int kBlockTokens = 16;

[[nodiscard]] constexpr std::size_t element_bytes(KvFormat format) {
  return format == KvFormat::bf16 ? 2 : 4;
}

// The shape of one block: K and V of 16 consecutive tokens for every layer and K/V head.
// Bytes within a page: [layer][kv_head][K, V], each part 16 * head_dim elements:
//   bf16: K [head_dim/2][16 tokens][2], V [8 token pairs][head_dim][2]
//   f32:  K [head_dim][16 tokens],      V [16 tokens][head_dim]
struct KvLayout {
  KvFormat format = KvFormat::bf16;
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;

  [[nodiscard]] constexpr std::size_t part_bytes() const {
    return static_cast<std::size_t>(kBlockTokens) * static_cast<std::size_t>(head_dim) * element_bytes(format);
  }
  [[nodiscard]] constexpr std::size_t page_bytes() const {
    return static_cast<std::size_t>(layers) * static_cast<std::size_t>(kv_heads) * 2 * part_bytes();
  }
  // Offset of K of (layer, kv_head) in a page; V follows at + part_bytes().
  [[nodiscard]] constexpr std::size_t k_offset(int layer, int kv_head) const {
    return (static_cast<std::size_t>(layer) * static_cast<std::size_t>(kv_heads) + static_cast<std::size_t>(kv_head)) *
           2 * part_bytes();
  }
  bool operator==(const KvLayout&) const = default;
};

// One sequence's K/V as the model sees it: page b holds positions 16b .. 16b+15.
// Slots not yet written hold finite values (zeros or another token's); masked
// probabilities are exact zeros, so those values change no bit.
// Lifetime: valid for one step. The step writes its own new positions through it.
struct KvView {
  const KvLayout* layout = nullptr;
  std::byte* const* pages = nullptr;  // [page_count]
  int page_count = 0;
};

}  // namespace dalsegno
