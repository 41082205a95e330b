#include "gguf/parse.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "gguf/printable.hpp"

namespace dalsegno {
namespace {

// The layout of a file, little endian:
//
//   "GGUF" | u32 version | u64 tensor count | u64 key count
//   per key:    string name | u32 type | value
//   per tensor: string name | u32 dimensions | u64 each | u32 type | u64 offset within the data
//   padding to the alignment | data
//
//   string: u64 length, bytes      array: u32 element type, u64 count, elements
static_assert(std::endian::native == std::endian::little);

constexpr std::uint32_t kFirstVersion = 2;
constexpr std::uint32_t kLastVersion = 3;
constexpr std::size_t kMaxKeyBytes = 65535;       // by the specification
constexpr std::size_t kMaxTensorNameBytes = 255;  // the specification says 64; some writers go to 128
constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kDefaultAlignment = 32;
constexpr std::uint64_t kMinAlignment = 8;
constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 20;
// The least a key (name of one byte, a value of one byte) and a tensor (one dimension) can take.
constexpr std::uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
// Far above any real file; bounds what a lying count makes us reserve.
constexpr std::uint64_t kMaxEntries = 65536;
constexpr std::uint64_t kMaxTensors = 65536;

struct TypeRow {
  std::size_t bytes;
  const char* words;
};
constexpr std::array<TypeRow, 13> kTypeRows{{
    {1, "an unsigned 8-bit integer"},
    {1, "a signed 8-bit integer"},
    {2, "an unsigned 16-bit integer"},
    {2, "a signed 16-bit integer"},
    {4, "an unsigned 32-bit integer"},
    {4, "a signed 32-bit integer"},
    {4, "a 32-bit float"},
    {1, "a boolean"},
    {0, "a string"},
    {0, "an array"},
    {8, "an unsigned 64-bit integer"},
    {8, "a signed 64-bit integer"},
    {8, "a 64-bit float"},
}};

// Tensor types of the ggml project that are not read here, so that they can be named.
struct OtherTensorType {
  std::uint32_t code;
  const char* name;
};
constexpr std::array<OtherTensorType, 20> kOtherTensorTypes{{
    {9, "Q8_1"},   {10, "Q2_K"},  {11, "Q3_K"},  {15, "Q8_K"},   {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
    {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"}, {24, "I8"},      {25, "I16"},    {26, "I32"},
    {27, "I64"},   {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"},  {35, "TQ2_0"},   {39, "MXFP4"},
}};

std::string tensor_type_words(std::uint32_t code) {
  for (const OtherTensorType& type : kOtherTensorTypes) {
    if (type.code == code) return fmt::format("type {}", type.name);
  }
  return fmt::format("the unknown type code {}", code);
}

const TypeRow& row(GgufType type) {
  return kTypeRows[static_cast<std::size_t>(type)];
}

class Parser {
 public:
  Parser(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  Result<GgufContents> parse() {
    DALSEGNO_TRY(read_header());
    for (std::uint64_t i = 0; i < entry_count_; ++i) DALSEGNO_TRY(read_entry(i));
    DALSEGNO_TRY(index_keys());
    DALSEGNO_TRY(read_settings());
    for (std::uint64_t i = 0; i < tensor_count_; ++i) DALSEGNO_TRY(read_tensor(i));
    DALSEGNO_TRY(index_names());
    DALSEGNO_TRY(place_tensors());
    return std::move(contents_);
  }

 private:
  template <class... Args>
  Error error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) const {
    return {code, fmt::format("{}: {}", quoted_path(path_), fmt::format(format, std::forward<Args>(args)...))};
  }
  template <class... Args>
  Error corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return error(ErrorCode::corrupt, format, std::forward<Args>(args)...);
  }
  // `part` is read at the present position, where the file has too few bytes.
  Error cut_short(const std::string& part, std::uint64_t needed) const {
    return corrupt("{} at byte {} needs {} bytes, but the file ends after {}; it is cut short or damaged", part,
                   position_, needed, bytes_.size());
  }

  [[nodiscard]] std::uint64_t remaining() const { return bytes_.size() - position_; }
  [[nodiscard]] const std::byte* here() const { return bytes_.data() + position_; }

  // False, with nothing consumed, where fewer bytes remain.
  template <class T>
  bool take(T& value) {
    if (remaining() < sizeof(T)) return false;
    value = load<T>(here());
    position_ += sizeof(T);
    return true;
  }
  bool take_string(std::string_view& text) {
    if (remaining() < 8) return false;
    const auto length = load<std::uint64_t>(here());
    if (length > remaining() - 8) return false;
    text = stored_string(here());
    position_ += 8 + length;
    return true;
  }
  // The error of a failed take_string at the present position.
  Error bad_string(const std::string& part) const {
    if (remaining() < 8) return cut_short(fmt::format("the length of {}", part), 8);
    return corrupt("{} at byte {} has a length of {} bytes, but {} bytes remain in the file", part, position_,
                   load<std::uint64_t>(here()), remaining() - 8);
  }

  Result<void> read_header();
  Result<void> read_counts();
  Result<void> read_entry(std::uint64_t number);
  Result<void> read_value(GgufEntry& entry, const std::string& part);
  Result<void> read_array(GgufEntry& entry, const std::string& part);
  Result<void> read_settings();
  Result<void> check_split();
  Result<void> read_tensor(std::uint64_t number);
  Result<void> read_dimensions(GgufTensor& tensor, const std::string& part);
  Result<void> size_tensor(GgufTensor& tensor, const std::string& part, std::uint32_t code);
  Result<void> index_keys();
  Result<void> index_names();
  Result<void> place_tensors();
  Result<void> place_tensor(GgufTensor& tensor, std::uint64_t data_start);
  Result<void> check_overlap();
  Result<std::optional<std::uint64_t>> unsigned_setting(std::string_view key) const;

  const std::span<const std::byte> bytes_;
  const std::string& path_;
  std::uint64_t position_ = 0;
  std::uint64_t entry_count_ = 0;
  std::uint64_t tensor_count_ = 0;
  std::uint64_t alignment_ = kDefaultAlignment;
  GgufContents contents_;
};

Result<void> Parser::read_header() {
  constexpr std::string_view kMagic = "GGUF";
  if (bytes_.empty()) return corrupt("it is empty, expected a GGUF file");
  const std::size_t have = std::min(bytes_.size(), kMagic.size());
  if (std::memcmp(bytes_.data(), kMagic.data(), have) != 0) {
    const std::string found(reinterpret_cast<const char*>(bytes_.data()), have);
    return corrupt("it begins with {}, expected 'GGUF'; this is not a GGUF file", quoted_name(found));
  }
  if (have < kMagic.size()) return cut_short("the magic 'GGUF'", kMagic.size());
  position_ = kMagic.size();
  std::uint32_t version = 0;
  if (!take(version)) return cut_short("the version", sizeof version);
  // A small number written by the other byte order has its low half empty.
  if (version != 0 && (version & 0xFFFFU) == 0) {
    return error(ErrorCode::unsupported, "it is a big-endian GGUF file, expected a little-endian one");
  }
  if (version < kFirstVersion || version > kLastVersion) {
    return error(ErrorCode::unsupported, "it has GGUF version {}, expected {} or {}", version, kFirstVersion,
                 kLastVersion);
  }
  contents_.version = static_cast<int>(version);
  return read_counts();
}

Result<void> Parser::read_counts() {
  if (!take(tensor_count_)) return cut_short("the number of tensors", 8);
  if (!take(entry_count_)) return cut_short("the number of keys", 8);
  if (const auto most = std::min(remaining() / kMinEntryBytes, kMaxEntries); entry_count_ > most) {
    return corrupt("the header announces {} keys, expected at most {} in the {} bytes that follow", entry_count_, most,
                   remaining());
  }
  if (const auto most = std::min(remaining() / kMinTensorBytes, kMaxTensors); tensor_count_ > most) {
    return corrupt("the header announces {} tensors, expected at most {} in the {} bytes that follow", tensor_count_,
                   most, remaining());
  }
  contents_.entries.reserve(entry_count_);
  contents_.tensors.reserve(tensor_count_);
  return {};
}

Result<void> Parser::read_entry(std::uint64_t number) {
  const auto unnamed = [&] { return fmt::format("the name of key {} of {}", number + 1, entry_count_); };
  GgufEntry entry;
  const std::uint64_t start = position_;
  if (!take_string(entry.key)) return bad_string(unnamed());
  if (entry.key.empty() || entry.key.size() > kMaxKeyBytes) {
    return corrupt("{} at byte {} has {} bytes, expected 1 to {}", unnamed(), start, entry.key.size(), kMaxKeyBytes);
  }
  const std::string part = fmt::format("key {}", quoted_name(entry.key));
  std::uint32_t code = 0;
  if (!take(code)) return cut_short(fmt::format("the type of {}", part), sizeof code);
  if (code >= kTypeRows.size()) {
    return corrupt("{} has the unknown value type {}, expected 0 to {}", part, code, kTypeRows.size() - 1);
  }
  entry.type = GgufType{code};
  DALSEGNO_TRY(read_value(entry, part));
  contents_.entries.push_back(entry);
  return {};
}

Result<void> Parser::read_value(GgufEntry& entry, const std::string& part) {
  if (entry.type == GgufType::array) return read_array(entry, part);
  entry.data = here();
  if (entry.type == GgufType::string) {
    std::string_view text;
    if (!take_string(text)) return bad_string(fmt::format("the text of {}", part));
    return {};
  }
  const std::size_t size = fixed_bytes(entry.type);
  if (remaining() < size) return cut_short(fmt::format("the value of {}", part), size);
  if (entry.type == GgufType::boolean && load<std::uint8_t>(here()) > 1) {
    return corrupt("{} is a boolean of value {}, expected 0 or 1", part, load<std::uint8_t>(here()));
  }
  position_ += size;
  return {};
}

Result<void> Parser::read_array(GgufEntry& entry, const std::string& part) {
  std::uint32_t code = 0;
  if (!take(code)) return cut_short(fmt::format("the element type of {}", part), sizeof code);
  if (code >= kTypeRows.size()) {
    return corrupt("{} is an array of the unknown type {}, expected 0 to {}", part, code, kTypeRows.size() - 1);
  }
  entry.element = GgufType{code};
  if (entry.element == GgufType::array) {
    return error(ErrorCode::unsupported, "{} is an array of arrays, expected an array of plain values", part);
  }
  if (!take(entry.count)) return cut_short(fmt::format("the length of {}", part), sizeof entry.count);
  const bool strings = entry.element == GgufType::string;
  const std::uint64_t least = strings ? 8 : fixed_bytes(entry.element);
  if (entry.count > remaining() / least) {
    return corrupt("{} announces {} elements, but the {} bytes that follow hold at most {}", part, entry.count,
                   remaining(), remaining() / least);
  }
  entry.data = here();
  if (!strings) {
    position_ += entry.count * least;
    return {};
  }
  std::string_view text;
  for (std::uint64_t i = 0; i < entry.count; ++i) {
    if (!take_string(text)) return bad_string(fmt::format("element {} of {}", i, part));
  }
  return {};
}

// The few keys that the layout itself depends on have small unsigned types.
Result<std::optional<std::uint64_t>> Parser::unsigned_setting(std::string_view key) const {
  const GgufEntry* entry = find_entry(contents_, key);
  if (entry == nullptr) return std::optional<std::uint64_t>();
  switch (entry->type) {
    case GgufType::u16:
      return std::optional<std::uint64_t>(load<std::uint16_t>(entry->data));
    case GgufType::u32:
      return std::optional<std::uint64_t>(load<std::uint32_t>(entry->data));
    case GgufType::u64:
      return std::optional<std::uint64_t>(load<std::uint64_t>(entry->data));
    default:
      return corrupt("key '{}' is {}, expected an unsigned integer", key, describe(entry->type));
  }
}

Result<void> Parser::read_settings() {
  DALSEGNO_TRY(check_split());
  DALSEGNO_ASSIGN(alignment, unsigned_setting("general.alignment"));
  if (!alignment) return {};
  if (!std::has_single_bit(*alignment) || *alignment < kMinAlignment || *alignment > kMaxAlignment) {
    return corrupt("key 'general.alignment' is {}, expected a power of two from {} to {}", *alignment, kMinAlignment,
                   kMaxAlignment);
  }
  alignment_ = *alignment;
  return {};
}

Result<void> Parser::check_split() {
  DALSEGNO_ASSIGN(parts, unsigned_setting("split.count"));
  if (!parts || *parts <= 1) return {};
  return error(ErrorCode::unsupported,
               "it is one of {} parts of a split model (key 'split.count'), expected a single file; merge the parts "
               "first",
               *parts);
}

Result<void> Parser::read_tensor(std::uint64_t number) {
  const auto unnamed = [&] { return fmt::format("the name of tensor {} of {}", number + 1, tensor_count_); };
  const std::uint64_t start = position_;
  std::string_view name;
  if (!take_string(name)) return bad_string(unnamed());
  if (name.empty() || name.size() > kMaxTensorNameBytes) {
    return corrupt("{} at byte {} has {} bytes, expected 1 to {}", unnamed(), start, name.size(), kMaxTensorNameBytes);
  }
  GgufTensor tensor;
  tensor.name = name;
  const std::string part = fmt::format("tensor {}", quoted_name(name));
  DALSEGNO_TRY(read_dimensions(tensor, part));
  std::uint32_t code = 0;
  if (!take(code)) return cut_short(fmt::format("the type of {}", part), sizeof code);
  if (!take(tensor.offset)) return cut_short(fmt::format("the offset of {}", part), sizeof tensor.offset);
  DALSEGNO_TRY(size_tensor(tensor, part, code));
  contents_.tensors.push_back(std::move(tensor));
  return {};
}

Result<void> Parser::read_dimensions(GgufTensor& tensor, const std::string& part) {
  std::uint32_t count = 0;
  if (!take(count)) return cut_short(fmt::format("the number of dimensions of {}", part), sizeof count);
  if (count == 0 || count > kMaxDimensions) {
    return corrupt("{} has {} dimensions, expected 1 to {}", part, count, kMaxDimensions);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    std::uint64_t size = 0;
    if (!take(size)) return cut_short(fmt::format("dimension {} of {}", i, part), sizeof size);
    if (size == 0) return corrupt("dimension {} of {} is 0, expected at least 1", i, part);
    tensor.dims.push_back(size);
  }
  return {};
}

Result<void> Parser::size_tensor(GgufTensor& tensor, const std::string& part, std::uint32_t code) {
  const TensorTypeTraits* type = tensor_type_traits(code);
  if (type == nullptr) {
    return error(ErrorCode::unsupported,
                 "{} has {}, expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, Q4_K, Q5_K, Q6_K",
                 part, tensor_type_words(code));
  }
  tensor.type = type->type;
  const auto block = static_cast<std::uint64_t>(type->block_elements);
  if (tensor.dims[0] % block != 0) {
    return corrupt("{} has rows of {} elements, expected a multiple of {} for type {}", part, tensor.dims[0], block,
                   type->name);
  }
  std::uint64_t bytes = tensor.dims[0] / block;
  bool overflow = __builtin_mul_overflow(bytes, static_cast<std::uint64_t>(type->block_bytes), &bytes);
  std::uint64_t elements = tensor.dims[0];
  for (std::size_t i = 1; i < tensor.dims.size(); ++i) {
    overflow = __builtin_mul_overflow(bytes, tensor.dims[i], &bytes) || overflow;
    overflow = __builtin_mul_overflow(elements, tensor.dims[i], &elements) || overflow;
  }
  if (overflow || elements > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return corrupt("the dimensions [{}] of {} overflow 64 bits; expected a tensor that fits in the file",
                   fmt::join(tensor.dims, ", "), part);
  }
  tensor.bytes = bytes;
  return {};
}

Result<void> Parser::index_keys() {
  const auto& entries = contents_.entries;
  auto& order = contents_.by_key;
  for (std::uint32_t i = 0; i < entries.size(); ++i) order.push_back(i);
  std::sort(order.begin(), order.end(),
            [&](std::uint32_t a, std::uint32_t b) { return entries[a].key < entries[b].key; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (entries[order[i - 1]].key == entries[order[i]].key) {
      return corrupt("key {} appears twice, expected once", quoted_name(entries[order[i]].key));
    }
  }
  return {};
}

Result<void> Parser::index_names() {
  const auto& tensors = contents_.tensors;
  auto& order = contents_.by_name;
  for (std::uint32_t i = 0; i < tensors.size(); ++i) order.push_back(i);
  std::sort(order.begin(), order.end(),
            [&](std::uint32_t a, std::uint32_t b) { return tensors[a].name < tensors[b].name; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (tensors[order[i - 1]].name == tensors[order[i]].name) {
      return corrupt("tensor {} appears twice, expected once", quoted_name(tensors[order[i]].name));
    }
  }
  return {};
}

Result<void> Parser::place_tensors() {
  if (contents_.tensors.empty()) return {};
  // Cannot overflow: the position is within the file and the alignment is small.
  const std::uint64_t data_start = (position_ + alignment_ - 1) / alignment_ * alignment_;
  for (GgufTensor& tensor : contents_.tensors) DALSEGNO_TRY(place_tensor(tensor, data_start));
  return check_overlap();
}

Result<void> Parser::place_tensor(GgufTensor& tensor, std::uint64_t data_start) {
  if (tensor.offset % alignment_ != 0) {
    return corrupt("tensor {} has the data offset {}, expected a multiple of the alignment {}",
                   quoted_name(tensor.name), tensor.offset, alignment_);
  }
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  if (__builtin_add_overflow(data_start, tensor.offset, &begin) || __builtin_add_overflow(begin, tensor.bytes, &end)) {
    return corrupt("tensor {} has the data offset {} and {} bytes, expected a range inside the file of {} bytes",
                   quoted_name(tensor.name), tensor.offset, tensor.bytes, bytes_.size());
  }
  if (end > bytes_.size()) {
    return corrupt("tensor {} takes bytes {} to {}, but the file ends after {}; it is cut short or damaged",
                   quoted_name(tensor.name), begin, end, bytes_.size());
  }
  tensor.offset = begin;
  tensor.data = bytes_.data() + begin;
  return {};
}

Result<void> Parser::check_overlap() {
  std::vector<const GgufTensor*> order;
  for (const GgufTensor& tensor : contents_.tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const std::uint64_t end = order[i - 1]->offset + order[i - 1]->bytes;
    if (end > order[i]->offset) {
      return corrupt("tensors {} and {} overlap: the first ends at byte {}, the second begins at byte {}",
                     quoted_name(order[i - 1]->name), quoted_name(order[i]->name), end, order[i]->offset);
    }
  }
  // Writers pad the last tensor too, or leave its padding out altogether; part of it means a cut.
  const std::uint64_t end = order.back()->offset + order.back()->bytes;
  const std::uint64_t padded = (end + alignment_ - 1) / alignment_ * alignment_;
  if (bytes_.size() > end && bytes_.size() < padded) {
    return corrupt("the padding after tensor {} ends at byte {}, but the file ends after {}; it is cut short",
                   quoted_name(order.back()->name), padded, bytes_.size());
  }
  return {};
}

}  // namespace

const GgufEntry* find_entry(const GgufContents& contents, std::string_view key) {
  const auto& entries = contents.entries;
  const auto at =
      std::lower_bound(contents.by_key.begin(), contents.by_key.end(), key,
                       [&](std::uint32_t index, std::string_view wanted) { return entries[index].key < wanted; });
  return at == contents.by_key.end() || entries[*at].key != key ? nullptr : &entries[*at];
}

const GgufTensor* find_tensor(const GgufContents& contents, std::string_view name) {
  const auto& tensors = contents.tensors;
  const auto at =
      std::lower_bound(contents.by_name.begin(), contents.by_name.end(), name,
                       [&](std::uint32_t index, std::string_view wanted) { return tensors[index].name < wanted; });
  return at == contents.by_name.end() || tensors[*at].name != name ? nullptr : &tensors[*at];
}

std::size_t fixed_bytes(GgufType type) {
  return row(type).bytes;
}

const char* describe(GgufType type) {
  return row(type).words;
}

std::string_view stored_string(const std::byte* at) {
  return {reinterpret_cast<const char*>(at + 8), static_cast<std::size_t>(load<std::uint64_t>(at))};
}

Result<GgufContents> parse_gguf(std::span<const std::byte> bytes, const std::string& path) {
  return Parser(bytes, path).parse();
}

}  // namespace dalsegno
