#include "model/kv_layout.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "tensor/kv_groups.hpp"

namespace dalsegno {
namespace {

constexpr int kMostStart = 1 << 27;

}  // namespace

KvLayout kv_layout(const ModelConfig& config, const KvOptions& kv) {
  KvLayout layout;
  layout.format = kv.format;
  layout.layers = config.layers;
  layout.kv_heads = config.kv_heads;
  layout.head_dim = config.head_dim;
  layout.max_size = kv.max_size;
  layout.keep = kv.keep;
  layout.code_group = is_quantised(kv.format) ? kv.group_size : 0;
  layout.start = kv.start;
  return with_window(layout, config.sliding_window, [&](int layer) { return config.windowed(layer); });
}

Result<KvOptions> kv_options(const ModelConfig& config, const KvOptions& wanted) {
  KvOptions kv = wanted;
  if (kv.max_size < 0 || kv.keep < 0 || (kv.max_size == 0 ? kv.keep > 0 : kv.keep >= kv.max_size)) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("to attend to {} tokens of which the first {} are kept is not possible; keep fewer than all",
                    kv.max_size, kv.keep)};
  }
  if (kv.start < 0 || kv.start > kMostStart) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("codes from token {} on are not possible; choose 0 to {}", kv.start, kMostStart)};
  }
  if (!is_quantised(kv.format)) {
    kv.group_size = kv.start = 0;
    return kv;
  }
  if (kv.group_size != 32 && kv.group_size != 64 && kv.group_size != 128) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("groups of {} keys or values are not possible; choose 32, 64 or 128", kv.group_size)};
  }
  kv.group_size = std::min(kv.group_size, config.head_dim);
  kv.start = (kv.start + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  return kv;
}

}  // namespace dalsegno
