#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace dalsegno {

using Digest = std::array<std::byte, 32>;

// SHA-256 over the SHA-256 of each piece of 1 MiB, the last one perhaps shorter, so that pieces can be hashed apart.
inline constexpr std::size_t kChecksumPiece = 1U << 20;

[[nodiscard]] Digest sha256(std::span<const std::byte> bytes);
[[nodiscard]] std::string hex(std::span<const std::byte> bytes);  // lower case
[[nodiscard]] Digest checksum_of_pieces(const std::vector<Digest>& pieces);

}  // namespace dalsegno
