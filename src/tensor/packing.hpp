#pragma once

#include <cstddef>

#include "tensor/packed.hpp"
#include "tensor/tensor_type.hpp"

namespace dalsegno {

// (The byte layout of a group in each PackedFormat is drawn here.)

[[nodiscard]] PackedFormat packed_format(TensorType type);
// Bytes of one panel (32 columns) / of a whole matrix; multiples of 64.
[[nodiscard]] std::size_t packed_panel_bytes(PackedFormat format, int k);
[[nodiscard]] std::size_t packed_bytes(PackedFormat format, int n, int k);

// Repacks panels [panel_begin, panel_end) of a GGUF matrix [n, k] (rows of k elements, contiguous blocks) into `out`,
// the start of panel 0. Exact. Thread-safe for disjoint panels. Returns false if a scale, minimum or float
// weight is NaN or infinite (packing goes on; the caller refuses the tensor).
bool pack_panels(TensorType type, const std::byte* source, int n, int k, int panel_begin, int panel_end, std::byte* out);

}  // namespace dalsegno
