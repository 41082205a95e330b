#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"

namespace dalsegno {

// One key of a file. Views and pointers are into the file's bytes and wholly inside them.
struct GgufEntry {
  std::string_view key;
  GgufType type = GgufType::u8;
  GgufType element = GgufType::u8;  // of an array
  std::uint64_t count = 1;          // elements of an array
  const std::byte* data = nullptr;  // the value; an array's first element; a string's length
};

struct GgufContents {
  int version = 0;
  std::vector<GgufEntry> entries;      // in file order, keys distinct
  std::vector<std::uint32_t> by_key;   // indices of entries, keys ascending
  std::vector<GgufTensor> tensors;     // in file order, names distinct
  std::vector<std::uint32_t> by_name;  // indices of tensors, names ascending
};

// Checks a whole file and lists what it holds. Allocates in proportion to the header's bytes, never
// to a number found in it. `path` is for messages.
Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, const std::string& path);

// nullptr where there is none.
[[nodiscard]] const GgufEntry* find_entry(const GgufContents& contents, std::string_view key);
[[nodiscard]] const GgufTensor* find_tensor(const GgufContents& contents, std::string_view name);

// Bytes of a value of fixed size; 0 for strings and arrays.
[[nodiscard]] std::size_t fixed_bytes(GgufType type);
// "an unsigned 32-bit integer", ...
[[nodiscard]] const char* describe(GgufType type);

// A number at any address. Requires: sizeof(T) bytes inside the file.
template <class T>
[[nodiscard]] T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// A string as GGUF stores it, 8 bytes of length and then its bytes. Requires: checked by parse_gguf.
[[nodiscard]] std::string_view stored_string(const std::byte* at);

}  // namespace dalsegno
