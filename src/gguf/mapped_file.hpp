#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "dalsegno/result.hpp"

namespace dalsegno {

// Which bytes a file holds, as far as the system can tell without reading them: writing to a file or replacing
// it changes this. Times in nanoseconds since the epoch.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t bytes = 0;
  std::int64_t modified = 0;
  std::int64_t changed = 0;
};

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
  [[nodiscard]] const FileIdentity& identity() const { return identity_; }
  // Gives the memory of the whole pages in `part` back to the system; reading them maps them again.
  void forget(std::span<const std::byte> part) const;

 private:
  std::span<const std::byte> bytes_;
  FileIdentity identity_;
};

}  // namespace dalsegno
