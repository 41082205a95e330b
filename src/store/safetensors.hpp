#pragma once

#include <cstddef>
#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/files.hpp"
#include "dalsegno/result.hpp"
#include "store/checksum.hpp"

namespace dalsegno {

// Files in the safetensors format (https://github.com/huggingface/safetensors) whose last tensor, `checksum` U8 [32],
// is the checksum (store/checksum.hpp) of every byte of the file before it:
//   8 bytes   N, little-endian
//   N bytes   JSON: {"__metadata__": {text: text}, NAME: {"dtype", "shape", "data_offsets": [begin, end]}, ...},
//             filled up with spaces so that what follows begins at a multiple of 8
//   the rest  the tensors in the order of the header, without gaps; `checksum` is the last
struct SafetensorsTensor {
  std::string name;
  std::string dtype;  // "BF16", "F32", "I32", "I8" or "U8"
  std::vector<std::uint64_t> shape;

  [[nodiscard]] std::uint64_t bytes() const;  // Requires: a dtype of these
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<SafetensorsTensor> tensors;  // without the checksum

  [[nodiscard]] std::uint64_t bytes() const;  // of the tensors
};

// Takes the tensors' bytes in their order. What is at `path` stays until commit(). Threads: one at a time.
class SafetensorsWriter {
 public:
  static Result<SafetensorsWriter> create(FileSystem& files, const std::string& path, const SafetensorsHeader& header);
  SafetensorsWriter(SafetensorsWriter&&) = default;
  SafetensorsWriter& operator=(SafetensorsWriter&&) = delete;
  ~SafetensorsWriter();

  Result<void> append(std::span<const std::byte> bytes);
  // Requires: every byte of the header's tensors was appended, and no more.
  Result<void> commit();

 private:
  struct Piece {
    Result<void> written;
    Digest digest{};
  };
  SafetensorsWriter(AtomicFile file, std::uint64_t bytes);
  Result<void> flush();
  Result<void> settle();

  std::unique_ptr<AtomicFile> file_;
  std::uint64_t left_;            // of the tensors
  std::vector<std::byte> piece_;  // being filled
  std::future<Piece> under_way_;  // the one before, written and hashed meanwhile
  std::vector<Digest> digests_;   // of those before
};

// Gives the tensors' bytes in their order. They may be used for what can be taken back; they are right if finish()
// says so. Errors, of all: corrupt (not such a file, or damaged), and those of ReadableFile.
// Threads: one at a time.
class SafetensorsReader {
 public:
  static Result<SafetensorsReader> open(FileSystem& files, const std::string& path);
  SafetensorsReader(SafetensorsReader&&) = default;
  SafetensorsReader& operator=(SafetensorsReader&&) = delete;
  ~SafetensorsReader();

  [[nodiscard]] const SafetensorsHeader& header() const { return header_; }
  // Fills `out` with the next bytes. Requires: the tensors have so many left.
  Result<void> read(std::span<std::byte> out);
  // Reads what is left and checks all of it.
  Result<void> finish();

 private:
  struct Piece {
    Result<void> read;
    std::vector<std::byte> bytes;
    Digest digest{};
  };
  SafetensorsReader(std::unique_ptr<ReadableFile> file, std::string path);
  Result<void> read_header();
  Result<void> next_piece();
  void read_ahead();
  Result<void> take(std::span<std::byte> out);

  std::unique_ptr<ReadableFile> file_;
  std::string path_;
  SafetensorsHeader header_;
  std::uint64_t unread_ = 0;  // of what the checksum covers
  std::uint64_t left_ = 0;    // of the tensors
  std::vector<std::byte> piece_;
  std::size_t used_ = 0;  // of it
  std::future<Piece> under_way_;
  std::vector<Digest> digests_;
};

}  // namespace dalsegno
