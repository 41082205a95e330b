#include "oracle/setups.hpp"

#include <fmt/format.h>

namespace dalsegno::oracle {
namespace {

constexpr KvOptions kBf16{.format = KvFormat::bf16};
constexpr KvOptions kF32{.format = KvFormat::f32};
constexpr KvOptions kQ8{.format = KvFormat::q8};
constexpr KvOptions kQ4{.format = KvFormat::q4, .group_size = 32};
constexpr KvOptions kBounded{.format = KvFormat::bf16, .max_size = 90, .keep = 7};
constexpr KvOptions kBoundedF32{.format = KvFormat::f32, .max_size = 40, .keep = 0};
constexpr KvOptions kBoundedQ8{.format = KvFormat::q8, .max_size = 130, .keep = 33};
constexpr KvOptions kBoundedQ4{.format = KvFormat::q4, .group_size = 32, .max_size = 300, .keep = 20};
constexpr KvOptions kQ8Later{.format = KvFormat::q8, .start = 40};
constexpr KvOptions kQ4Later{.format = KvFormat::q4, .start = 256};
constexpr KvOptions kBoundedQ4Later{
    .format = KvFormat::q4, .group_size = 32, .start = 100, .max_size = 150, .keep = 20};
constexpr Setup kSetups[] = {
    {"gemma3-swa", kBf16, 2},
    {"llama-gqa", kBf16, 1, 8, "value", "llama-gqa"},
    {"qwen3-qknorm", kF32, 2},
    {"gemma3-swa", kBounded, 1},
    {"qwen2-bias", kBf16, 2, 16},
    {"llama-q4_1", kQ8, 2},
    {"gemma3-swa", kQ4, 1, 8, "value", "gemma3-swa"},
    {"gemma3-swa", kF32, 2, 8, "lru"},
    {"qwen3-qknorm", kBounded, 1, 8, "value", "gemma3-swa"},
    {"llama-gqa", kBoundedQ4, 2},
    {"qwen2-bias", kQ8, 1, 8, "lru"},
    {"llama-q4_1", kBoundedF32, 2, 16},
    {"gemma3-swa", kBoundedQ8, 2},
    {"qwen3-qknorm", kQ4, 2},
    {"qwen2-bias", kBounded, 1},
    {"llama-gqa", kF32, 1, 8, "lru"},
    {"gemma3-swa", kQ8Later, 2},
    {"qwen2-bias", kQ4Later, 1, 8, "value", "qwen2-bias"},
    {"llama-gqa", kQ8Later, 2},
    {"gemma3-swa", kBoundedQ4Later, 1},
};

}  // namespace

std::span<const Setup> all_setups() {
  return kSetups;
}

std::string describe(const Setup& setup) {
  std::string bounds;
  if (setup.kv.start > 0) bounds = fmt::format(" from {}", setup.kv.start);
  if (setup.kv.max_size > 0) bounds += fmt::format(" max {} keep {}", setup.kv.max_size, setup.kv.keep);
  return fmt::format("{} {}{} activations {} threads {} {}{}{}", setup.model, name(setup.kv.format), bounds,
                     setup.activation_bits, setup.threads, setup.eviction, setup.draft == nullptr ? "" : " draft ",
                     setup.draft == nullptr ? "" : setup.draft);
}

}  // namespace dalsegno::oracle
