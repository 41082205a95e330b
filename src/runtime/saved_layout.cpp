#include "runtime/saved_layout.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace dalsegno {
namespace {

using Span = SavedLayout::Span;

// Layers that look back without limit, and the sink of the others, are kept from the beginning on.
std::vector<Span> spans_of(const SavedLayout& saved, int layer, bool early) {
  const KvLayout& layout = *saved.layout;
  const KvDivision& division = layout.division_of(early);
  const int slice = layout.slice_of(layer, early) - (early ? kMostSlices : 0);
  std::vector<Span> spans{{0, saved.tokens}};
  if (slice >= division.full_slices) {
    spans = {{0, layout.sink_blocks * kBlockTokens}, {saved.window_block * kBlockTokens, saved.tokens}};
    spans[1].begin = std::max(spans[1].begin, spans[0].end);
  }
  const Span side = early ? Span{0, layout.start} : Span{layout.start, saved.tokens};
  for (Span& span : spans) span = {std::max(span.begin, side.begin), std::min({span.end, side.end, saved.tokens})};
  std::erase_if(spans, [](const Span& span) { return span.begin >= span.end; });
  return spans;
}

const char* dtype_of(KvFormat format, KvField field) {
  if (field != KvField::values || format == KvFormat::bf16) return "BF16";
  if (format == KvFormat::f32) return "F32";
  return format == KvFormat::q8 ? "I8" : "U8";
}

std::uint64_t element_bytes_of(KvFormat format, KvField field) {
  return field == KvField::values && is_quantised(format) ? 1 : field == KvField::values ? element_bytes(format) : 2;
}

const char* suffix_of(KvFormat format, KvField field) {
  if (field == KvField::scales) return "_scales";
  if (field == KvField::minima) return "_minima";
  return is_quantised(format) ? "_codes" : "";
}

}  // namespace

std::vector<SavedLayout::Tensor> SavedLayout::tensors() const {
  std::vector<Tensor> all;
  for (int layer = 0; layer < layout->layers; ++layer) {
    for (const KvPart part : {KvPart::keys, KvPart::values}) {
      for (const bool early : {true, false}) {
        const std::vector<Span> spans = spans_of(*this, layer, early);
        std::uint64_t rows = 0;
        for (const Span& span : spans) rows += static_cast<std::uint64_t>(span.end - span.begin);
        if (rows == 0) continue;
        const KvFormat format = layout->format_of(early);
        for (const KvField field : {KvField::values, KvField::scales, KvField::minima}) {
          const std::size_t bytes = kv_field_bytes(*layout, field, early);
          if (bytes == 0) continue;
          std::string name =
              fmt::format("layers.{}.{}{}", layer, part == KvPart::keys ? "k" : "v", suffix_of(format, field));
          SafetensorsTensor described{
              std::move(name),
              dtype_of(format, field),
              {rows, static_cast<std::uint64_t>(layout->kv_heads), bytes / element_bytes_of(format, field)}};
          all.push_back({std::move(described), layer, part, field, early, spans});
        }
      }
    }
  }
  return all;
}

Result<void> SavedLayout::for_blocks(const Tensor& tensor,
                                     const std::function<Result<void>(const BlockRows&)>& each) const {
  const std::size_t row =
      static_cast<std::size_t>(layout->kv_heads) * kv_field_bytes(*layout, tensor.field, tensor.early);
  BlockRows rows;
  rows.slice = static_cast<std::size_t>(layout->slice_of(tensor.layer, tensor.early));
  rows.offset = layout->k_offset(tensor.layer, 0, tensor.early) +
                (tensor.part == KvPart::keys ? 0 : layout->part_bytes(tensor.early));
  for (const Span& span : tensor.spans) {
    for (int position = span.begin; position < span.end; position += kBlockTokens) {
      const int count = std::min(kBlockTokens, span.end - position);
      rows.rows = {layout, tensor.part, tensor.field, tensor.early, count};
      rows.block = position / kBlockTokens;
      rows.bytes = static_cast<std::size_t>(count) * row;
      DALSEGNO_TRY(each(rows));
    }
  }
  return {};
}

}  // namespace dalsegno
