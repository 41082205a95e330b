#include "base/files.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

namespace dalsegno {
namespace {

constexpr std::string_view kTemporary = ".part";

Error failed(const char* what, const std::string& path, int error) {
  return Error{error == ENOENT ? ErrorCode::not_found : ErrorCode::io,
               fmt::format("cannot {} '{}': {}", what, path, std::generic_category().message(error))};
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

Result<Descriptor> opened(const char* what, const std::string& path, int flags) {
  int fd = -1;
  do {
    fd = ::open(path.c_str(), flags | O_CLOEXEC, S_IRUSR | S_IWUSR);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return failed(what, path, errno);
  return Descriptor(fd);
}

class SystemWriter final : public WritableFile {
 public:
  SystemWriter(Descriptor file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}

  Result<void> append(std::span<const std::byte> bytes) override {
    while (!bytes.empty()) {
      const ssize_t written = ::write(file_.get(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return failed("write", path_, errno);
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
    return {};
  }

  Result<void> sync() override {
    if (::fsync(file_.get()) != 0) return failed("write", path_, errno);
    return {};
  }

 private:
  const Descriptor file_;
  const std::string path_;
};

class SystemReader final : public ReadableFile {
 public:
  SystemReader(Descriptor file, std::string path, std::uint64_t size)
      : file_(std::move(file)), path_(std::move(path)), size_(size) {}

  [[nodiscard]] std::uint64_t size() const override { return size_; }

  Result<void> read(std::span<std::byte> out) override {
    while (!out.empty()) {
      const ssize_t got = ::read(file_.get(), out.data(), out.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return failed("read", path_, errno);
      if (got == 0) return Error{ErrorCode::corrupt, fmt::format("'{}' ends too early", path_)};
      out = out.subspan(static_cast<std::size_t>(got));
    }
    return {};
  }

 private:
  const Descriptor file_;
  const std::string path_;
  const std::uint64_t size_;
};

class SystemFiles final : public FileSystem {
 public:
  Result<std::unique_ptr<WritableFile>> create(const std::string& path) override {
    DALSEGNO_ASSIGN(file, opened("create", path, O_WRONLY | O_CREAT | O_EXCL));
    (void)::flock(file.get(), LOCK_EX | LOCK_NB);  // for remove_abandoned(); it ends with the descriptor
    return std::unique_ptr<WritableFile>(std::make_unique<SystemWriter>(std::move(file), path));
  }

  Result<std::unique_ptr<ReadableFile>> open(const std::string& path) override {
    // Without O_NONBLOCK, opening a pipe would wait for its writer.
    DALSEGNO_ASSIGN(file, opened("open", path, O_RDONLY | O_NONBLOCK));
    struct stat status {};
    if (::fstat(file.get(), &status) != 0) return failed("open", path, errno);
    if (!S_ISREG(status.st_mode)) {
      return Error{ErrorCode::invalid_argument, fmt::format("'{}' is not a file", path)};
    }
    const auto size = static_cast<std::uint64_t>(status.st_size);
    return std::unique_ptr<ReadableFile>(std::make_unique<SystemReader>(std::move(file), path, size));
  }

  Result<std::string> place_of(const std::string& path) override {
    constexpr int kMostLinks = 40;  // one after another, as Linux follows them
    if (path.find('\0') != std::string::npos) {
      return Error{ErrorCode::invalid_argument, "the path of a file has a zero byte in it"};
    }
    std::filesystem::path at = path;
    std::error_code error;
    for (int links = 0; links < kMostLinks && std::filesystem::is_symlink(at, error); ++links) {
      const std::filesystem::path next = std::filesystem::read_symlink(at, error);
      if (error) break;
      at = next.is_absolute() ? next : at.parent_path() / next;
    }
    const std::filesystem::file_status there = std::filesystem::status(at, error);
    if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("'{}' is {}; give the path of a file", path,
                               std::filesystem::is_directory(there) ? "a folder" : "a device, pipe or socket")};
    }
    return at.string();
  }

  Result<void> rename(const std::string& from, const std::string& to) override {
    if (::rename(from.c_str(), to.c_str()) != 0) return failed("write", to, errno);
    return {};
  }

  Result<void> remove(const std::string& path) override {
    if (::unlink(path.c_str()) != 0) return failed("remove", path, errno);
    return {};
  }

  void remove_abandoned(const std::string& path) override {
    const auto file = opened("open", path, O_RDONLY | O_NONBLOCK);
    if (file.ok() && ::flock(file.value().get(), LOCK_EX | LOCK_NB) == 0) ::unlink(path.c_str());
  }

  Result<void> sync_folder(const std::string& folder) override {
    DALSEGNO_ASSIGN(file, opened("open", folder, O_RDONLY | O_DIRECTORY));
    // Some file systems have nothing to sync here, and say so.
    if (::fsync(file.get()) != 0 && errno != EINVAL) return failed("write", folder, errno);
    return {};
  }

  Result<void> make_folder(const std::string& folder) override {
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) return failed("create", folder, error.value());
    return {};
  }

  Result<std::vector<Entry>> list(const std::string& folder) override {
    std::error_code error;
    std::vector<Entry> entries;
    for (std::filesystem::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
      std::error_code ignored;
      if (!at->is_regular_file(ignored)) continue;
      const auto modified = std::chrono::nanoseconds(at->last_write_time(ignored).time_since_epoch());
      entries.push_back({at->path().filename().string(), modified.count()});
    }
    if (error) return failed("read", folder, error.value());
    std::ranges::sort(entries, {}, &Entry::name);
    return entries;
  }
};

}  // namespace

FileSystem& system_files() {
  static SystemFiles files;
  return files;
}

std::string folder_of(const std::string& path) {
  std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

AtomicFile::AtomicFile(FileSystem& files, std::string path, std::string temporary, std::unique_ptr<WritableFile> file)
    : files_(&files), path_(std::move(path)), temporary_(std::move(temporary)), file_(std::move(file)) {}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : files_(other.files_),
      path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      file_(std::move(other.file_)) {}

// Whoever reads the sentence knows the path alone.
Error AtomicFile::named(Error error) const {
  if (const std::size_t at = error.message.find(temporary_); at != std::string::npos) {
    error.message.replace(at, temporary_.size(), path_);
  }
  return error;
}

AtomicFile::~AtomicFile() {
  if (temporary_.empty()) return;
  file_.reset();
  (void)files_->remove(temporary_);
}

Result<AtomicFile> AtomicFile::create(FileSystem& files, const std::string& asked) {
  DALSEGNO_ASSIGN(path, files.place_of(asked));
  const std::string folder = folder_of(path);
  const std::string own = std::filesystem::path(path).filename().string() + ".";
  if (const auto entries = files.list(folder); entries.ok()) {
    for (const auto& [name, modified] : entries.value()) {
      if (name.starts_with(own) && name.ends_with(kTemporary))
        files.remove_abandoned(fmt::format("{}/{}", folder, name));
    }
  }
  // Two writers of one path never share a name: processes differ in their id, and the writers of one in the number.
  static std::atomic<std::uint64_t> next{0};
  const std::string temporary = fmt::format("{}.{}-{}{}", path, ::getpid(), next++, kTemporary);
  AtomicFile made(files, path, temporary, nullptr);
  auto file = files.create(temporary);
  if (!file.ok()) {
    Error error = made.named(std::move(file).error());
    made.temporary_.clear();
    return error;
  }
  made.file_ = std::move(file).value();
  return made;
}

Result<void> AtomicFile::append(std::span<const std::byte> bytes) {
  Result<void> done = file_->append(bytes);
  return done.ok() ? done : Result<void>(named(std::move(done).error()));
}

Result<void> AtomicFile::commit() {
  if (Result<void> synced = file_->sync(); !synced.ok()) return named(std::move(synced).error());
  if (Result<void> renamed = files_->rename(temporary_, path_); !renamed.ok()) return named(std::move(renamed).error());
  temporary_.clear();
  return files_->sync_folder(folder_of(path_));
}

}  // namespace dalsegno
