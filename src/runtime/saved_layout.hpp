#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "store/safetensors.hpp"
#include "tensor/kv_rows.hpp"

namespace dalsegno {

// How the K/V of a sequence are laid out in a saved cache.
struct SavedLayout {
  const KvLayout* layout = nullptr;
  int tokens = 0;
  int window_block = 0;  // first block of what is kept of sliding-window layers, beside the sink

  // One tensor: a field of K or of V of one layer, of its positions in all `spans`, before or from the start on.
  struct Span {
    int begin = 0;
    int end = 0;
  };
  struct Tensor {
    SafetensorsTensor described;
    int layer = 0;
    KvPart part = KvPart::keys;
    KvField field = KvField::values;
    bool early = false;
    std::vector<Span> spans;  // ascending
  };
  // In the order of the file.
  [[nodiscard]] std::vector<Tensor> tensors() const;

  // The rows of a tensor in one block, as the file has them and as a page does.
  struct BlockRows {
    KvBlockRows rows;
    int block = 0;
    std::size_t slice = 0;   // of the block's pages
    std::size_t offset = 0;  // in the page
    std::size_t bytes = 0;   // in the file
  };
  // Calls `each` for the blocks of a tensor in their order, until it fails.
  [[nodiscard]] Result<void> for_blocks(const Tensor& tensor,
                                        const std::function<Result<void>(const BlockRows&)>& each) const;
};

}  // namespace dalsegno
