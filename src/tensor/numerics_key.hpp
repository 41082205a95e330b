#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>

#include "dalsegno/types.hpp"

namespace dalsegno {

// Everything that may change a bit of a logit, and nothing else.
// The fingerprint covers the model's tensors and the metadata that matters, RoPE settings included.
struct NumericsKey {
  std::array<std::byte, 32> fingerprint{};
  int activation_bits = 8;  // 8 or 16
  KvOptions kv;             // as kv_options() gives them
  int numerics_version = 0;
  auto operator<=>(const NumericsKey&) const = default;
};

// Root of one prefix tree: the salt is part of the key, so that no tier can forget it.
struct Namespace {
  NumericsKey key;
  std::string salt;
  auto operator<=>(const Namespace&) const = default;
};

}  // namespace dalsegno
