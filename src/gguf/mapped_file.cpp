#include "gguf/mapped_file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "gguf/printable.hpp"

namespace dalsegno {
namespace {

Error system_error(const std::string& path, const char* action, int number) {
  if (number == ENOENT || number == ENOTDIR) {
    return {ErrorCode::not_found, fmt::format("there is no file {}; give the path of a GGUF file", quoted_path(path))};
  }
  const std::string reason = std::generic_category().message(number);
  return {ErrorCode::io, fmt::format("cannot {} {}: {}", action, quoted_path(path), reason)};
}

const char* kind(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

std::int64_t nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int number() const { return number_; }

 private:
  int number_;
};

}  // namespace

Result<MappedFile> MappedFile::open(const std::string& path) {
  // Non-blocking: opening a pipe without a writer would wait for one.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.number() < 0) return system_error(path, "open", errno);
  struct stat status {};
  if (::fstat(file.number(), &status) != 0) return system_error(path, "examine", errno);
  if (!S_ISREG(status.st_mode)) {
    return Error{ErrorCode::not_found,
                 fmt::format("{} is {}; expected a GGUF file", quoted_path(path), kind(status.st_mode))};
  }
  if (status.st_size == 0) {
    return Error{ErrorCode::corrupt, fmt::format("{} is empty; expected a GGUF file", quoted_path(path))};
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number(), 0);
  if (address == MAP_FAILED) return system_error(path, "map", errno);
  MappedFile mapped;
  mapped.bytes_ = {static_cast<const std::byte*>(address), size};
  mapped.identity_ = {status.st_dev, status.st_ino, size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), identity_(other.identity_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(identity_, other.identity_);
  return *this;
}

void MappedFile::forget(std::span<const std::byte> part) const {
  static const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<std::size_t>(part.data() - bytes_.data());
  const std::size_t begin = (offset + page - 1) / page * page;
  const std::size_t end = (offset + part.size()) / page * page;
  if (begin < end) ::madvise(const_cast<std::byte*>(bytes_.data() + begin), end - begin, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace dalsegno
