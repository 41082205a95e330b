#include "store/checksum.hpp"

#include <openssl/sha.h>

namespace dalsegno {

static_assert(sizeof(Digest) == SHA256_DIGEST_LENGTH);

Digest sha256(std::span<const std::byte> bytes) {
  Digest digest{};
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         reinterpret_cast<unsigned char*>(digest.data()));
  return digest;
}

Digest checksum_of_pieces(const std::vector<Digest>& pieces) {
  return sha256(std::as_bytes(std::span(pieces)));
}

}  // namespace dalsegno
