#include "store/safetensors.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cassert>
#include <cstring>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

namespace dalsegno {
namespace {

namespace json = boost::json;

constexpr std::string_view kMetadata = "__metadata__";
constexpr std::string_view kChecksum = "checksum";
constexpr std::uint64_t kLengthBytes = 8;
constexpr std::uint64_t kAlignment = 8;
constexpr std::uint64_t kMostHeader = 64U << 20;

std::uint64_t element_size(std::string_view dtype) {
  if (dtype == "BF16") return 2;
  if (dtype == "F32" || dtype == "I32") return 4;
  return dtype == "I8" || dtype == "U8" ? 1 : 0;
}

// Nothing where the product does not fit.
std::optional<std::uint64_t> size_of(const SafetensorsTensor& tensor) {
  std::uint64_t bytes = element_size(tensor.dtype);
  if (bytes == 0) return std::nullopt;
  for (const std::uint64_t dim : tensor.shape) {
    if (dim != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / 8 / dim) return std::nullopt;
    bytes *= dim;
  }
  return bytes;
}

std::string header_text(const SafetensorsHeader& header) {
  json::object object;
  json::object& metadata = object[kMetadata].emplace_object();
  for (const auto& [key, value] : header.metadata) metadata[key] = value;
  std::uint64_t at = 0;
  const auto add = [&](const SafetensorsTensor& tensor) {
    const std::uint64_t end = at + tensor.bytes();
    object[tensor.name] = {
        {"dtype", tensor.dtype}, {"shape", json::value_from(tensor.shape)}, {"data_offsets", {at, end}}};
    at = end;
  };
  for (const SafetensorsTensor& tensor : header.tensors) add(tensor);
  add({std::string(kChecksum), "U8", {sizeof(Digest)}});
  std::string text = json::serialize(object);
  text.resize((text.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  return text;
}

struct Entry {
  SafetensorsTensor tensor;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

std::optional<std::uint64_t> whole(const json::value& value) {
  boost::system::error_code error;
  const auto number = value.to_number<std::uint64_t>(error);
  if (error) return std::nullopt;
  return number;
}

std::optional<Entry> entry_of(std::string_view name, const json::value& value) {
  const json::object* object = value.if_object();
  if (object == nullptr) return std::nullopt;
  const json::value* dtype = object->if_contains("dtype");
  const json::value* shape = object->if_contains("shape");
  const json::value* offsets = object->if_contains("data_offsets");
  if (dtype == nullptr || !dtype->is_string() || shape == nullptr || !shape->is_array() || offsets == nullptr ||
      !offsets->is_array() || offsets->get_array().size() != 2) {
    return std::nullopt;
  }
  Entry entry;
  entry.tensor.name = name;
  entry.tensor.dtype = dtype->get_string();
  for (const json::value& dim : shape->get_array()) {
    const auto size = whole(dim);
    if (!size) return std::nullopt;
    entry.tensor.shape.push_back(*size);
  }
  const auto begin = whole(offsets->get_array()[0]);
  const auto end = whole(offsets->get_array()[1]);
  const auto bytes = size_of(entry.tensor);
  if (!begin || !end || !bytes || *end < *begin || *end - *begin != *bytes) return std::nullopt;
  entry.begin = *begin;
  entry.end = *end;
  return entry;
}

bool read_metadata(const json::value& value, std::map<std::string, std::string>& metadata) {
  if (!value.is_object()) return false;
  for (const auto& [key, text] : value.get_object()) {
    if (!text.is_string()) return false;
    metadata.emplace(key, text.get_string());
  }
  return true;
}

// What is wrong with a header, or nothing. data_bytes: of the file behind it.
std::optional<std::string> parse(std::string_view text, std::uint64_t data_bytes, SafetensorsHeader& header) {
  boost::system::error_code error;
  const json::value value = json::parse(text, error);
  if (error || !value.is_object()) return "its header is not a JSON object";
  std::vector<Entry> entries;
  for (const auto& [name, described] : value.get_object()) {
    if (name == kMetadata) {
      if (!read_metadata(described, header.metadata)) return "its metadata are not texts";
      continue;
    }
    auto entry = entry_of(name, described);
    if (!entry) return fmt::format("its header describes tensor '{}' in a way that cannot be", std::string(name));
    entries.push_back(std::move(*entry));
  }
  std::ranges::stable_sort(entries, {}, &Entry::begin);
  std::uint64_t at = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != at) return "its tensors overlap or leave gaps";
    at = entry.end;
  }
  if (at != data_bytes) return fmt::format("its tensors take {} bytes, but it holds {}", at, data_bytes);
  if (entries.empty() || entries.back().tensor.name != kChecksum || entries.back().tensor.dtype != "U8" ||
      entries.back().end - entries.back().begin != sizeof(Digest)) {
    return "it has no checksum at its end, so it was not saved by Dal Segno";
  }
  entries.pop_back();
  for (Entry& entry : entries) header.tensors.push_back(std::move(entry.tensor));
  return std::nullopt;
}

// A thread pays for pieces whose hash takes longer than its start.
std::launch launch_for(std::size_t bytes) {
  return bytes >= (64U << 10) ? std::launch::async : std::launch::deferred;
}

Error damaged(const std::string& path, std::string_view why) {
  return Error{ErrorCode::corrupt, fmt::format("'{}' cannot be used: {}; save it again", path, why)};
}

std::array<std::byte, kLengthBytes> little_endian(std::uint64_t value) {
  std::array<std::byte, kLengthBytes> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(value >> (8 * i));
  return bytes;
}

}  // namespace

std::uint64_t SafetensorsTensor::bytes() const {
  const auto bytes = size_of(*this);
  assert(bytes && "an unknown dtype, or more bytes than there are");
  return bytes.value_or(0);
}

std::uint64_t SafetensorsHeader::bytes() const {
  std::uint64_t sum = 0;
  for (const SafetensorsTensor& tensor : tensors) sum += tensor.bytes();
  return sum;
}

// --- Writing ---

SafetensorsWriter::SafetensorsWriter(AtomicFile file, std::uint64_t bytes)
    : file_(std::make_unique<AtomicFile>(std::move(file))), left_(bytes) {}

SafetensorsWriter::~SafetensorsWriter() {
  if (under_way_.valid()) under_way_.wait();  // it uses the file
}

Result<SafetensorsWriter> SafetensorsWriter::create(FileSystem& files, const std::string& path,
                                                    const SafetensorsHeader& header) {
  const std::string text = header_text(header);
  if (text.size() > kMostHeader) {
    return Error{ErrorCode::invalid_argument, fmt::format("'{}' would have a header of {} bytes, more than the {} "
                                                          "that can be read again",
                                                          path, text.size(), kMostHeader)};
  }
  DALSEGNO_ASSIGN(file, AtomicFile::create(files, path));
  SafetensorsWriter writer(std::move(file), kLengthBytes + text.size() + header.bytes());
  DALSEGNO_TRY(writer.append(little_endian(text.size())));
  DALSEGNO_TRY(writer.append(std::as_bytes(std::span(text))));
  return writer;
}

Result<void> SafetensorsWriter::append(std::span<const std::byte> bytes) {
  assert(bytes.size() <= left_);
  left_ -= bytes.size();
  while (!bytes.empty()) {
    const std::size_t taken = std::min(bytes.size(), kChecksumPiece - piece_.size());
    piece_.insert(piece_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
    bytes = bytes.subspan(taken);
    if (piece_.size() == kChecksumPiece) DALSEGNO_TRY(flush());
  }
  return {};
}

// Hashing takes about as long as putting the next piece together.
Result<void> SafetensorsWriter::flush() {
  DALSEGNO_TRY(settle());
  under_way_ = std::async(launch_for(piece_.size()), [file = file_.get(), piece = std::exchange(piece_, {})] {
    return Piece{file->append(piece), sha256(piece)};
  });
  piece_.reserve(kChecksumPiece);
  return {};
}

Result<void> SafetensorsWriter::settle() {
  if (!under_way_.valid()) return {};
  Piece piece = under_way_.get();
  digests_.push_back(piece.digest);
  return std::move(piece.written);
}

Result<void> SafetensorsWriter::commit() {
  assert(left_ == 0);
  if (!piece_.empty()) DALSEGNO_TRY(flush());
  DALSEGNO_TRY(settle());
  DALSEGNO_TRY(file_->append(checksum_of_pieces(digests_)));
  return file_->commit();
}

// --- Reading ---

SafetensorsReader::SafetensorsReader(std::unique_ptr<ReadableFile> file, std::string path)
    : file_(std::move(file)), path_(std::move(path)) {}

SafetensorsReader::~SafetensorsReader() {
  if (under_way_.valid()) under_way_.wait();  // it uses the file
}

Result<SafetensorsReader> SafetensorsReader::open(FileSystem& files, const std::string& path) {
  DALSEGNO_ASSIGN(file, files.open(path));
  SafetensorsReader reader(std::move(file), path);
  DALSEGNO_TRY(reader.read_header());
  return reader;
}

Result<void> SafetensorsReader::read_header() {
  const std::uint64_t size = file_->size();
  if (size < kLengthBytes + 2 + sizeof(Digest)) return damaged(path_, "it is too short for a saved cache");
  unread_ = size - sizeof(Digest);
  read_ahead();
  std::array<std::byte, kLengthBytes> length_bytes{};
  DALSEGNO_TRY(take(length_bytes));
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < length_bytes.size(); ++i) {
    length |= std::to_integer<std::uint64_t>(length_bytes[i]) << (8 * i);
  }
  if (length > kMostHeader || length > size - kLengthBytes - sizeof(Digest)) {
    return damaged(path_, "it is cut short within its header, or was never one");
  }
  std::string text(static_cast<std::size_t>(length), ' ');
  DALSEGNO_TRY(take(std::as_writable_bytes(std::span(text))));
  if (const auto wrong = parse(text, size - kLengthBytes - length, header_)) return damaged(path_, *wrong);
  left_ = header_.bytes();
  return {};
}

void SafetensorsReader::read_ahead() {
  const auto bytes = static_cast<std::size_t>(std::min<std::uint64_t>(unread_, kChecksumPiece));
  if (bytes == 0) return;
  unread_ -= bytes;
  under_way_ = std::async(launch_for(bytes), [file = file_.get(), bytes] {
    Piece piece;
    piece.bytes.resize(bytes);
    piece.read = file->read(piece.bytes);
    if (piece.read.ok()) piece.digest = sha256(piece.bytes);
    return piece;
  });
}

Result<void> SafetensorsReader::next_piece() {
  Piece piece = under_way_.get();
  DALSEGNO_TRY(std::move(piece.read));
  digests_.push_back(piece.digest);
  piece_ = std::move(piece.bytes);
  used_ = 0;
  read_ahead();
  return {};
}

Result<void> SafetensorsReader::take(std::span<std::byte> out) {
  while (!out.empty()) {
    if (used_ == piece_.size()) DALSEGNO_TRY(next_piece());
    const std::size_t taken = std::min(out.size(), piece_.size() - used_);
    std::memcpy(out.data(), piece_.data() + used_, taken);
    used_ += taken;
    out = out.subspan(taken);
  }
  return {};
}

Result<void> SafetensorsReader::read(std::span<std::byte> out) {
  assert(out.size() <= left_);
  left_ -= out.size();
  return take(out);
}

Result<void> SafetensorsReader::finish() {
  while (under_way_.valid()) DALSEGNO_TRY(next_piece());
  left_ = 0;
  Digest expected{};
  DALSEGNO_TRY(file_->read(expected));
  if (checksum_of_pieces(digests_) != expected) return damaged(path_, "its checksum does not match its contents");
  return {};
}

}  // namespace dalsegno
