#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "dalsegno/result.hpp"

namespace dalsegno {

// A regular file mapped read-only for as long as the object lives; move-only. It refuses folders,
// pipes, devices and empty files, and never waits for a writer. The file must not shrink meanwhile.
class MappedFile {
 public:
  // Errors: not_found (missing, or not a regular file), io (the system refused), corrupt (empty).
  static Result<MappedFile> open(const std::string& path);
  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  // Gives the memory of the whole pages in `part` back to the system; reading them maps them again.
  void forget(std::span<const std::byte> part) const;

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace dalsegno
