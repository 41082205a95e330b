#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "dalsegno/result.hpp"

namespace dalsegno {

// The few things that writers and readers of files need, so that tests can stand in for the disk.
// Errors, of all: io (the sentence names the path and what the system said), not_found where a path is not there.
// Threads: a file, one at a time; a file system, any.

// Destroyed without close(): what was appended may be on disk or not.
class WritableFile {
 public:
  virtual ~WritableFile() = default;
  virtual Result<void> append(std::span<const std::byte> bytes) = 0;
  // All that was appended is on disk when this returns.
  virtual Result<void> sync() = 0;
};

// Read from its beginning to its end.
class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  [[nodiscard]] virtual std::uint64_t size() const = 0;
  // Fills all of `out`. Errors: also corrupt (the file ends before).
  virtual Result<void> read(std::span<std::byte> out) = 0;
};

class FileSystem {
 public:
  virtual ~FileSystem() = default;
  // A new file that only this user may read; an existing one is an error.
  virtual Result<std::unique_ptr<WritableFile>> create(const std::string& path) = 0;
  virtual Result<std::unique_ptr<ReadableFile>> open(const std::string& path) = 0;
  // Where a file of this path is to be written: where a symbolic link leads, be it there or not; any other path is
  // itself. Errors: also invalid_argument (what is there is no file, but a folder, a device or the like; a zero byte in
  // the path).
  virtual Result<std::string> place_of(const std::string& path) { return path; }
  // Takes the place of what `to` was, at once or not at all.
  virtual Result<void> rename(const std::string& from, const std::string& to) = 0;
  virtual Result<void> remove(const std::string& path) = 0;
  // Removes a file that create() made and that no process writes any more.
  virtual void remove_abandoned(const std::string& path) = 0;
  // Names that were created, renamed or removed in the folder are on disk as they are now.
  virtual Result<void> sync_folder(const std::string& folder) = 0;
  // Makes a folder and those above it, as far as they are not there.
  virtual Result<void> make_folder(const std::string& folder) = 0;
  // The files in a folder, by name.
  struct Entry {
    std::string name;
    std::int64_t modified = 0;  // nanoseconds from some moment on
  };
  virtual Result<std::vector<Entry>> list(const std::string& folder) = 0;
};

// The system's.
[[nodiscard]] FileSystem& system_files();

// The folder of a path: "." for a bare name.
[[nodiscard]] std::string folder_of(const std::string& path);

// Writes a file in whole or not at all, whatever happens on the way: under another name in the same folder, then synced
// and renamed. A symbolic link stays one, and what it leads to is written. Destroyed before commit(): nothing is left.
// What a process left that was killed, the next writer of the same path removes.
class AtomicFile {
 public:
  static Result<AtomicFile> create(FileSystem& files, const std::string& asked);
  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  Result<void> append(std::span<const std::byte> bytes);
  Result<void> commit();

 private:
  AtomicFile(FileSystem& files, std::string path, std::string temporary, std::unique_ptr<WritableFile> file);
  [[nodiscard]] Error named(Error error) const;

  FileSystem* files_;
  std::string path_;
  std::string temporary_;
  std::unique_ptr<WritableFile> file_;
};

}  // namespace dalsegno
