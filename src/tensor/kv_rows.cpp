#include "tensor/kv_rows.hpp"

#include <cassert>
#include <cstring>

namespace dalsegno {
namespace {

constexpr std::size_t kSlots = kBlockTokens;

// Which way bytes go; the loops below are the same for both.
struct Read {
  const std::byte* block;
  std::byte* rows;
  template <std::size_t kBytes>
  void move(std::size_t in_block, std::size_t in_rows) const {
    std::memcpy(rows + in_rows, block + in_block, kBytes);
  }
};
struct Write {
  const std::byte* rows;
  std::byte* block;
  template <std::size_t kBytes>
  void move(std::size_t in_block, std::size_t in_rows) const {
    std::memcpy(block + in_block, rows + in_rows, kBytes);
  }
};

// [count][16 tokens] units of kBytes in the block; a token's units side by side in its row.
template <std::size_t kBytes, class Way>
void by_unit(const Way& way, int tokens, std::size_t count, std::size_t stride) {
  for (std::size_t token = 0; token < static_cast<std::size_t>(tokens); ++token) {
    for (std::size_t i = 0; i < count; ++i) {
      way.template move<kBytes>((i * kSlots + token) * kBytes, token * stride + i * kBytes);
    }
  }
}

// [8 token pairs][count][2] units of kBytes.
template <std::size_t kBytes, class Way>
void by_pair(const Way& way, int tokens, std::size_t count, std::size_t stride) {
  for (std::size_t token = 0; token < static_cast<std::size_t>(tokens); ++token) {
    const std::size_t at = token / 2 * count * 2 + token % 2;
    for (std::size_t i = 0; i < count; ++i) {
      way.template move<kBytes>((at + 2 * i) * kBytes, token * stride + i * kBytes);
    }
  }
}

// Where the 4-bit code of (token, dim) lies in a block: its byte, and whether in the high half.
struct Nibble {
  std::size_t byte = 0;
  bool high = false;
};
Nibble key_nibble(std::size_t token, std::size_t dim) {
  return {(dim / 4 * kSlots + token) * 2 + dim % 2, dim % 4 >= 2};
}
Nibble value_nibble(std::size_t token, std::size_t dim, std::size_t head_dim) {
  return {((token / 2 * (head_dim / 16) + dim / 16) * 8 + dim % 8) * 2 + token % 2, dim % 16 >= 8};
}

Nibble nibble(KvPart part, std::size_t token, std::size_t dim, std::size_t head_dim) {
  return part == KvPart::keys ? key_nibble(token, dim) : value_nibble(token, dim, head_dim);
}

std::uint8_t half(std::byte byte, bool high) {
  return static_cast<std::uint8_t>(high ? std::to_integer<int>(byte) >> 4 : std::to_integer<int>(byte) & 15);
}

void nibbles(const Read& way, KvPart part, int tokens, std::size_t head_dim, std::size_t stride) {
  for (std::size_t token = 0; token < static_cast<std::size_t>(tokens); ++token) {
    for (std::size_t dim = 0; dim < head_dim; dim += 2) {
      const Nibble low = nibble(part, token, dim, head_dim);
      const Nibble high = nibble(part, token, dim + 1, head_dim);
      way.rows[token * stride + dim / 2] =
          std::byte(half(way.block[low.byte], low.high) | half(way.block[high.byte], high.high) << 4);
    }
  }
}

void nibbles(const Write& way, KvPart part, int tokens, std::size_t head_dim, std::size_t stride) {
  for (std::size_t token = 0; token < static_cast<std::size_t>(tokens); ++token) {
    for (std::size_t dim = 0; dim < head_dim; ++dim) {
      const Nibble to = nibble(part, token, dim, head_dim);
      const std::uint8_t code = half(way.rows[token * stride + dim / 2], dim % 2 == 1);
      const std::byte kept = way.block[to.byte] & std::byte(to.high ? 0x0F : 0xF0);
      way.block[to.byte] = kept | std::byte(to.high ? code << 4 : code);
    }
  }
}

template <class Way>
void head_values(const Way& way, const KvBlockRows& what, std::size_t stride) {
  const auto dim = static_cast<std::size_t>(what.layout->head_dim);
  const bool keys = what.part == KvPart::keys;
  switch (what.layout->format_of(what.early)) {
    case KvFormat::bf16:
      return keys ? by_unit<4>(way, what.tokens, dim / 2, stride) : by_pair<2>(way, what.tokens, dim, stride);
    case KvFormat::f32:
      if (keys) return by_unit<4>(way, what.tokens, dim, stride);
      for (std::size_t token = 0; token < static_cast<std::size_t>(what.tokens); ++token) {
        for (std::size_t i = 0; i < dim; ++i) way.template move<4>((token * dim + i) * 4, token * stride + 4 * i);
      }
      return;
    case KvFormat::q8:
      return keys ? by_unit<2>(way, what.tokens, dim / 2, stride) : by_pair<1>(way, what.tokens, dim, stride);
    case KvFormat::q4:
      return nibbles(way, what.part, what.tokens, dim, stride);
  }
}

std::size_t groups(const KvLayout& layout) {
  const KvCodes codes = layout.codes();
  return static_cast<std::size_t>((codes.head_dim + codes.group - 1) / codes.group);
}

// Calls head(offset in the block, offset in the rows, bytes from a token's row to the next) for each head.
template <class Head>
void for_heads(const KvBlockRows& what, const Head& head) {
  const std::size_t bytes = kv_field_bytes(*what.layout, what.field, what.early);
  assert(bytes > 0 && what.tokens <= kBlockTokens);
  const auto heads = static_cast<std::size_t>(what.layout->kv_heads);
  std::size_t in_part = 0;
  if (what.field == KvField::scales) in_part = what.layout->codes().scale_offset;
  if (what.field == KvField::minima) in_part = what.layout->codes().minimum_offset;
  for (std::size_t i = 0; i < heads; ++i) {
    head(i * 2 * what.layout->part_bytes(what.early) + in_part, i * bytes, heads * bytes);
  }
}

template <class Way>
void one_head(const Way& way, const KvBlockRows& what, std::size_t stride) {
  if (what.field == KvField::values) return head_values(way, what, stride);
  by_unit<2>(way, what.tokens, groups(*what.layout), stride);
}

}  // namespace

std::size_t kv_field_bytes(const KvLayout& layout, KvField field, bool early) {
  const KvFormat format = layout.format_of(early);
  const auto dim = static_cast<std::size_t>(layout.head_dim);
  if (field == KvField::values) {
    if (format == KvFormat::q4) return dim / 2;
    return format == KvFormat::q8 ? dim : dim * element_bytes(format);
  }
  if (!is_quantised(format) || (field == KvField::minima && format != KvFormat::q4)) return 0;
  return groups(layout) * sizeof(std::uint16_t);
}

void read_rows(const KvBlockRows& what, const std::byte* block, std::byte* rows) {
  for_heads(what, [&](std::size_t in_block, std::size_t in_rows, std::size_t stride) {
    one_head(Read{block + in_block, rows + in_rows}, what, stride);
  });
}

void write_rows(const KvBlockRows& what, const std::byte* rows, std::byte* block) {
  for_heads(what, [&](std::size_t in_block, std::size_t in_rows, std::size_t stride) {
    one_head(Write{rows + in_rows, block + in_block}, what, stride);
  });
}

}  // namespace dalsegno
