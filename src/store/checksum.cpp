#include "store/checksum.hpp"

#include <fmt/format.h>
#include <openssl/sha.h>

namespace dalsegno {

static_assert(sizeof(Digest) == SHA256_DIGEST_LENGTH);

Digest sha256(std::span<const std::byte> bytes) {
  Digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

std::string hex(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte byte : bytes) text += fmt::format("{:02x}", std::to_integer<int>(byte));
  return text;
}

Digest checksum_of_pieces(const std::vector<Digest>& pieces) {
  return sha256(std::as_bytes(std::span(pieces)));
}

}  // namespace dalsegno
