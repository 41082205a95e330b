#pragma once

#include "kernels/kernels.hpp"

namespace dalsegno {
namespace {

// Where K/V are codes: puts the tile's first `blocks` blocks into args.loaded as bf16 and points the tile there. The
// tile after it may be prefetched. Internal linkage: every level compiles its own.
template <auto kLoadCodes, class Tile>
inline void load_tile(const AttentionArgs& args, const Tile& next, int blocks, Tile& tile) {
  const std::size_t part = kv_part_bytes(KvFormat::bf16, args.head_dim, 0);
  for (int b = 0; b < blocks; b++) {
    std::byte* k = args.loaded + static_cast<std::size_t>(b) * 2 * part;
    kLoadCodes(tile.k[b], *args.codes, KvPart::keys, next.k[b], k);
    kLoadCodes(tile.v[b], *args.codes, KvPart::values, next.v[b], k + part);
    tile.k[b] = k;
    tile.v[b] = k + part;
  }
}

}  // namespace
}  // namespace dalsegno
