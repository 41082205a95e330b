#include "gguf/gguf.hpp"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "gguf/mapped_file.hpp"
#include "gguf/parse.hpp"
#include "gguf/printable.hpp"

namespace dalsegno {
namespace {

// The integer at `at`, or nothing where the type is no integer or the value exceeds 63 bits.
std::optional<std::int64_t> load_integer(GgufType type, const std::byte* at) {
  switch (type) {
    case GgufType::u8:
      return load<std::uint8_t>(at);
    case GgufType::i8:
      return load<std::int8_t>(at);
    case GgufType::u16:
      return load<std::uint16_t>(at);
    case GgufType::i16:
      return load<std::int16_t>(at);
    case GgufType::u32:
      return load<std::uint32_t>(at);
    case GgufType::i32:
      return load<std::int32_t>(at);
    case GgufType::i64:
      return load<std::int64_t>(at);
    case GgufType::u64: {
      const auto value = load<std::uint64_t>(at);
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
      return static_cast<std::int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

bool is_integer(GgufType type) {
  switch (type) {
    case GgufType::f32:
    case GgufType::f64:
    case GgufType::boolean:
    case GgufType::string:
    case GgufType::array:
      return false;
    default:
      return true;
  }
}

bool is_string(GgufType type) {
  return type == GgufType::string;
}
bool is_float(GgufType type) {
  return type == GgufType::f32;
}

}  // namespace

struct GgufFile::Impl {
  std::string path;
  MappedFile mapping;  // empty where the bytes are borrowed
  std::uint64_t file_bytes = 0;
  GgufContents contents;

  [[nodiscard]] const GgufEntry* find(std::string_view key) const { return find_entry(contents, key); }
  [[nodiscard]] Error wrong(std::string_view key, std::string_view found, std::string_view expected) const {
    return {ErrorCode::corrupt,
            fmt::format("{}: key {} is {}, expected {}", quoted_path(path), quoted_name(key), found, expected)};
  }
  [[nodiscard]] Error missing(std::string_view key, std::string_view expected) const {
    return {ErrorCode::corrupt,
            fmt::format("{}: key {} is missing, expected {}", quoted_path(path), quoted_name(key), expected)};
  }
  // The array under `key`, whose elements must satisfy `accepts`.
  Result<const GgufEntry*> array(std::string_view key, bool (*accepts)(GgufType), std::string_view expected) const {
    const GgufEntry* entry = find(key);
    if (entry == nullptr) return missing(key, expected);
    if (entry->type != GgufType::array) return wrong(key, describe(entry->type), expected);
    if (!accepts(entry->element)) {
      return wrong(key, fmt::format("an array whose elements are {} each", describe(entry->element)), expected);
    }
    return entry;
  }
  static Result<std::unique_ptr<GgufFile>> make(std::unique_ptr<Impl> impl, std::span<const std::byte> bytes) {
    DALSEGNO_ASSIGN(contents, parse_gguf(bytes, impl->path));
    impl->contents = std::move(contents);
    impl->file_bytes = bytes.size();
    return std::unique_ptr<GgufFile>(new GgufFile(std::move(impl)));
  }
};

GgufFile::GgufFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
GgufFile::~GgufFile() = default;

Result<std::unique_ptr<GgufFile>> GgufFile::open(const std::string& path) {
  DALSEGNO_ASSIGN(mapping, MappedFile::open(path));
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->mapping = std::move(mapping);
  const std::span<const std::byte> bytes = impl->mapping.bytes();
  return Impl::make(std::move(impl), bytes);
}

Result<std::unique_ptr<GgufFile>> GgufFile::borrow(std::span<const std::byte> bytes, const std::string& name) {
  auto impl = std::make_unique<Impl>();
  impl->path = name;
  return Impl::make(std::move(impl), bytes);
}

void GgufFile::forget(std::span<const std::byte> part) const {
  if (!impl_->mapping.bytes().empty()) impl_->mapping.forget(part);
}

const std::string& GgufFile::path() const {
  return impl_->path;
}
const FileIdentity& GgufFile::identity() const {
  return impl_->mapping.identity();
}
int GgufFile::version() const {
  return impl_->contents.version;
}
std::uint64_t GgufFile::file_bytes() const {
  return impl_->file_bytes;
}
const std::vector<GgufTensor>& GgufFile::tensors() const {
  return impl_->contents.tensors;
}
bool GgufFile::has(std::string_view key) const {
  return impl_->find(key) != nullptr;
}

const GgufTensor* GgufFile::find_tensor(std::string_view name) const {
  return dalsegno::find_tensor(impl_->contents, name);
}

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> out;
  out.reserve(impl_->contents.entries.size());
  for (const GgufEntry& entry : impl_->contents.entries) out.emplace_back(entry.key);
  return out;
}

Result<std::int64_t> GgufFile::integer(std::string_view key) const {
  const GgufEntry* entry = impl_->find(key);
  if (entry == nullptr) return impl_->missing(key, "an integer");
  if (!is_integer(entry->type)) return impl_->wrong(key, describe(entry->type), "an integer");
  const auto value = load_integer(entry->type, entry->data);
  if (!value) {
    return impl_->wrong(key, std::to_string(load<std::uint64_t>(entry->data)), "an integer of at most 63 bits");
  }
  return *value;
}

Result<std::int64_t> GgufFile::integer_or(std::string_view key, std::int64_t fallback) const {
  return has(key) ? integer(key) : Result<std::int64_t>(fallback);
}

Result<double> GgufFile::number(std::string_view key) const {
  const GgufEntry* entry = impl_->find(key);
  if (entry == nullptr) return impl_->missing(key, "a floating-point number");
  if (entry->type == GgufType::f32) return static_cast<double>(load<float>(entry->data));
  if (entry->type == GgufType::f64) return load<double>(entry->data);
  return impl_->wrong(key, describe(entry->type), "a floating-point number");
}

Result<double> GgufFile::number_or(std::string_view key, double fallback) const {
  return has(key) ? number(key) : Result<double>(fallback);
}

Result<bool> GgufFile::boolean_or(std::string_view key, bool fallback) const {
  const GgufEntry* entry = impl_->find(key);
  if (entry == nullptr) return fallback;
  if (entry->type != GgufType::boolean) return impl_->wrong(key, describe(entry->type), "a boolean");
  return load<std::uint8_t>(entry->data) != 0;
}

Result<std::string> GgufFile::string(std::string_view key) const {
  const GgufEntry* entry = impl_->find(key);
  if (entry == nullptr) return impl_->missing(key, "a string");
  if (entry->type != GgufType::string) return impl_->wrong(key, describe(entry->type), "a string");
  return std::string(stored_string(entry->data));
}

Result<std::string> GgufFile::string_or(std::string_view key, std::string fallback) const {
  return has(key) ? string(key) : Result<std::string>(std::move(fallback));
}

Result<std::vector<std::string_view>> GgufFile::strings(std::string_view key) const {
  DALSEGNO_ASSIGN(entry, impl_->array(key, is_string, "an array of strings"));
  std::vector<std::string_view> out;
  out.reserve(entry->count);
  const std::byte* at = entry->data;
  for (std::uint64_t i = 0; i < entry->count; ++i) {
    out.push_back(stored_string(at));
    at += 8 + out.back().size();
  }
  return out;
}

Result<std::uint64_t> GgufFile::string_count(std::string_view key) const {
  DALSEGNO_ASSIGN(entry, impl_->array(key, is_string, "an array of strings"));
  return entry->count;
}

Result<std::vector<std::int64_t>> GgufFile::integers(std::string_view key) const {
  DALSEGNO_ASSIGN(entry, impl_->array(key, is_integer, "an array of integers"));
  std::vector<std::int64_t> out;
  out.reserve(entry->count);
  const std::size_t size = fixed_bytes(entry->element);
  for (std::uint64_t i = 0; i < entry->count; ++i) {
    const auto value = load_integer(entry->element, entry->data + i * size);
    if (!value) return impl_->wrong(key, fmt::format("too large at element {}", i), "integers of at most 63 bits");
    out.push_back(*value);
  }
  return out;
}

Result<std::vector<float>> GgufFile::floats(std::string_view key) const {
  DALSEGNO_ASSIGN(entry, impl_->array(key, is_float, "an array of 32-bit floats"));
  std::vector<float> out(entry->count);
  for (std::uint64_t i = 0; i < entry->count; ++i) out[i] = load<float>(entry->data + i * sizeof(float));
  return out;
}

std::optional<std::uint64_t> GgufFile::array_length(std::string_view key) const {
  const GgufEntry* entry = impl_->find(key);
  if (entry == nullptr || entry->type != GgufType::array) return std::nullopt;
  return entry->count;
}

}  // namespace dalsegno
