#pragma once

#include <cstddef>

#include "tensor/kv_view.hpp"

namespace dalsegno {

// K/V in logical order [token, kv_head, dim], apart from how pages hold them: what saved caches contain.
// Of K or of V, the fields of a token's head, in bytes:
//   values   bf16 or f32 [head_dim]; 8-bit codes: signed [head_dim]; 4-bit codes: unsigned [head_dim / 2], of two
//            neighbouring dims the even one in the low half
//   scales   of codes: bf16 [groups]
//   minima   of 4-bit codes: bf16 [groups]
enum class KvField : std::uint8_t { values, scales, minima };

// 0: the format has no such field. early: of positions before the layout's start.
[[nodiscard]] std::size_t kv_field_bytes(const KvLayout& layout, KvField field, bool early);

// One field of the first `tokens` tokens of a block, all heads: rows [tokens, kv_heads, field bytes]. block: where the
// layer's K or V of head 0 lies in its page.
// Requires: tokens <= kBlockTokens; the field exists.
struct KvBlockRows {
  const KvLayout* layout = nullptr;
  KvPart part = KvPart::keys;
  KvField field = KvField::values;
  bool early = false;
  int tokens = 0;
};
void read_rows(const KvBlockRows& what, const std::byte* block, std::byte* rows);
void write_rows(const KvBlockRows& what, const std::byte* rows, std::byte* block);

}  // namespace dalsegno
