#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>

#include "gguf/mapped_file.hpp"

namespace dalsegno {

// Fingerprints of files hashed before, so that a start need not read a model twice. One small file each in
// $XDG_CACHE_HOME/dalsegno/fingerprints (else ~/.cache/dalsegno/fingerprints), named after the file's identity;
// deleting any of them costs a hash. It never fails: what cannot be read or written is not remembered.
// Threads: any, processes too: a file appears whole or not at all.
class FingerprintMemory {
 public:
  using Hash = std::array<std::byte, 32>;

  FingerprintMemory();
  explicit FingerprintMemory(std::string folder) : folder_(std::move(folder)) {}

  [[nodiscard]] std::optional<Hash> recall(const FileIdentity& file) const;
  // Not remembered: small files, quickly hashed; files changed a moment ago, because the next change might leave
  // no trace in so coarse a clock.
  void remember(const FileIdentity& file, const Hash& hash) const;

 private:
  [[nodiscard]] std::string path_of(const FileIdentity& file) const;

  std::string folder_;  // empty: nowhere
};

}  // namespace dalsegno
