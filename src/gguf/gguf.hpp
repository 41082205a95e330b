#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "dalsegno/result.hpp"
#include "gguf/mapped_file.hpp"
#include "tensor/tensor_type.hpp"

namespace dalsegno {

enum class GgufType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

// One tensor of a file. dims[0] runs fastest (the inputs of a matrix); data points into the mapping.
struct GgufTensor {
  std::string name;
  TensorType type = TensorType::f32;
  std::vector<std::uint64_t> dims;
  std::uint64_t offset = 0;  // in the file
  std::uint64_t bytes = 0;
  const std::byte* data = nullptr;
};

// A GGUF file (version 2 or 3, little endian), memory-mapped read-only. open() checks everything
// that can be checked without a config: magic, version, every length against the bytes that remain,
// overflow, alignment, overlap, duplicates, types. What it hands out afterwards is in bounds.
// Lifetime: tensor data and string views live as long as the object. Threads: const is safe.
// Source: the GGUF specification of the ggml project.
class GgufFile {
 public:
  // Errors: not_found, io, corrupt, unsupported; each names file, key or tensor, what was found and expected.
  static Result<std::unique_ptr<GgufFile>> open(const std::string& path);
  // The same for a file that is in memory already; `name` stands for the path in messages.
  // Requires: bytes outlive the object and start at an address aligned to 16.
  static Result<std::unique_ptr<GgufFile>> borrow(std::span<const std::byte> bytes, const std::string& name);
  ~GgufFile();
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  // Gives back the memory that reading `part` of a tensor's data took; it may be read again.
  void forget(std::span<const std::byte> part) const;

  [[nodiscard]] const std::string& path() const;
  [[nodiscard]] const FileIdentity& identity() const;  // all zeros for a borrowed one
  [[nodiscard]] int version() const;
  [[nodiscard]] std::uint64_t file_bytes() const;
  [[nodiscard]] const std::vector<GgufTensor>& tensors() const;
  [[nodiscard]] const GgufTensor* find_tensor(std::string_view name) const;
  [[nodiscard]] bool has(std::string_view key) const;
  // Keys in file order.
  [[nodiscard]] std::vector<std::string> keys() const;

  // Typed access. A missing key or another type is `corrupt` with a sentence; integers accept any
  // integer type that fits; the *_or forms accept absence but not a wrong type.
  [[nodiscard]] Result<std::int64_t> integer(std::string_view key) const;
  [[nodiscard]] Result<std::int64_t> integer_or(std::string_view key, std::int64_t fallback) const;
  [[nodiscard]] Result<double> number(std::string_view key) const;
  [[nodiscard]] Result<double> number_or(std::string_view key, double fallback) const;
  [[nodiscard]] Result<bool> boolean_or(std::string_view key, bool fallback) const;
  [[nodiscard]] Result<std::string> string(std::string_view key) const;
  [[nodiscard]] Result<std::string> string_or(std::string_view key, std::string fallback) const;
  // Arrays. Missing: corrupt.
  [[nodiscard]] Result<std::vector<std::string_view>> strings(std::string_view key) const;
  [[nodiscard]] Result<std::vector<std::int64_t>> integers(std::string_view key) const;
  [[nodiscard]] Result<std::vector<float>> floats(std::string_view key) const;
  // Length of an array of strings, without walking it.
  [[nodiscard]] Result<std::uint64_t> string_count(std::string_view key) const;
  // Length of an array key, or nullopt.
  [[nodiscard]] std::optional<std::uint64_t> array_length(std::string_view key) const;

 private:
  struct Impl;
  explicit GgufFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno
