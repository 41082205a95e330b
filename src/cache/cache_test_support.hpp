#pragma once

// What the cache's tests share: a layout of 1024-byte pages, and K/V whose every element follows
// from (namespace, all tokens up to the position), so that a wrong page shows at once.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/memory_budget.hpp"
#include "cache/block_table.hpp"
#include "cache/kv_cache.hpp"
#include "tensor/kv_groups.hpp"

namespace dalsegno::cache_test {

inline constexpr KvLayout kLayout{.format = KvFormat::bf16, .layers = 1, .kv_heads = 1, .head_dim = 16};
inline constexpr std::uint64_t kPage = kLayout.block_bytes();

using Tokens = std::vector<TokenId>;

inline Namespace salted(std::string salt) {
  return Namespace{NumericsKey{}, std::move(salt)};
}

// Namespaces of one tenant that differ in their numerics key, as other models or settings do.
inline Namespace keyed(std::string_view name) {
  NumericsKey key;
  key.numerics_version = static_cast<int>(name.empty() ? 0 : name.front());
  return Namespace{key, "tenant"};
}

inline std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// One value for each position: a hash of the namespace and of the tokens up to it.
inline std::vector<std::uint64_t> truths(std::string_view salt, std::span<const TokenId> tokens) {
  std::uint64_t hash = 17;
  for (const char c : salt) hash = mix(hash ^ static_cast<unsigned char>(c));
  std::vector<std::uint64_t> values;
  values.reserve(tokens.size());
  for (const TokenId token : tokens) values.push_back(hash = mix(hash ^ mix(static_cast<std::uint64_t>(token) + 1)));
  return values;
}

// One layer without and two with a window, in pages of one layer each.
inline KvLayout sliding_layout(int window) {
  KvLayout plain = kLayout;
  plain.layers = 3;
  return with_window(plain, window, [](int layer) { return layer != 1; });
}

// Element `e` (0..15 of K, 16..31 of V) of one position in one slice, wherever the layout puts it.
inline std::byte* element(const KvView& view, int slice, int position, int e) {
  const int slot = position % kBlockTokens;
  const int dim = kLayout.head_dim;
  std::byte* page = view.pages[static_cast<std::size_t>(slice)][position / kBlockTokens];
  const int k = (e / 2 * kBlockTokens + slot) * 2 + e % 2;
  const int v = (slot / 2 * dim + (e - dim)) * 2 + slot % 2;
  return e < dim ? page + 2 * k : page + kLayout.part_bytes() + 2 * v;
}

inline std::uint16_t code(std::uint64_t truth, int slice, int e) {
  return static_cast<std::uint16_t>(mix(truth + static_cast<std::uint64_t>(100 * slice + e)));
}

inline void write(const KvView& view, int position, std::uint64_t truth) {
  const int block = position / kBlockTokens;
  const int first = view.layout->first_slice(block);
  for (int slice = first; slice < first + view.layout->pages_in(block); ++slice) {
    for (int e = 0; e < 2 * kLayout.head_dim; ++e) {
      const std::uint16_t value = code(truth, slice, e);
      std::memcpy(element(view, slice, position, e), &value, sizeof value);
    }
  }
}

inline bool holds(const KvView& view, int slice, int position, std::uint64_t truth) {
  if (view.pages[static_cast<std::size_t>(slice)][position / kBlockTokens] == nullptr) return false;
  for (int e = 0; e < 2 * kLayout.head_dim; ++e) {
    std::uint16_t value = 0;
    std::memcpy(&value, element(view, slice, position, e), sizeof value);
    if (value != code(truth, slice, e)) return false;
  }
  return true;
}

// The first of the tokens whose K/V are not its own, or -1. Of sliding layers only what the next token sees counts.
inline int first_wrong(const KvView& view, std::string_view salt, std::span<const TokenId> tokens) {
  const auto expected = truths(salt, tokens);
  for (std::size_t p = 0; p < expected.size(); ++p) {
    const bool seen = static_cast<int>(p) >= view.layout->first_seen(static_cast<int>(tokens.size()));
    const int block = static_cast<int>(p) / kBlockTokens;
    const int first = view.layout->first_slice(block);
    const int count = seen ? view.layout->pages_in(block) : view.layout->full_pages(block);
    for (int slice = first; slice < first + count; ++slice) {
      if (!holds(view, slice, static_cast<int>(p), expected[p])) return static_cast<int>(p);
    }
  }
  return -1;
}

// Computes, as a model would, the K/V of `tokens` from position table.tokens() on, and commits them.
// Requires: extend() made room; `tokens` is the whole sequence.
inline void fill(KvCache& cache, BlockTable& table, std::string_view salt, std::span<const TokenId> tokens) {
  const auto expected = truths(salt, tokens);
  const auto from = static_cast<std::size_t>(table.tokens());
  const KvView view = cache.view(table);
  for (std::size_t p = from; p < tokens.size(); ++p) write(view, static_cast<int>(p), expected[p]);
  cache.commit(table, tokens.subspan(from));
}

// Tokens first, first + 1, ...
inline Tokens counting(TokenId first, int count) {
  Tokens tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(first + i);
  return tokens;
}

inline Tokens joined(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace dalsegno::cache_test
