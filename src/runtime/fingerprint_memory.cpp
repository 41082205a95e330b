#include "runtime/fingerprint_memory.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>

namespace dalsegno {
namespace {

// Changed whenever fingerprint() hashes something else.
constexpr int kVersion = 2;
constexpr std::uint64_t kSmall = 16U << 20;      // bytes; hashed in about 5 ms
constexpr std::int64_t kRecent = 2'000'000'000;  // ns; the coarsest times of common file systems

std::string default_folder() {
  const auto value = [](const char* name) {
    const char* text = std::getenv(name);
    return std::string(text != nullptr ? text : "");
  };
  std::string cache = value("XDG_CACHE_HOME");
  if (cache.empty() && !value("HOME").empty()) cache = value("HOME") + "/.cache";
  return cache.empty() ? cache : cache + "/dalsegno/fingerprints";
}

}  // namespace

FingerprintMemory::FingerprintMemory() : folder_(default_folder()) {}

std::string FingerprintMemory::path_of(const FileIdentity& file) const {
  return fmt::format("{}/{}-{:x}-{:x}-{:x}-{:x}-{:x}", folder_, kVersion, file.device, file.inode, file.bytes,
                     file.modified, file.changed);
}

std::optional<FingerprintMemory::Hash> FingerprintMemory::recall(const FileIdentity& file) const {
  if (folder_.empty() || file.bytes < kSmall) return std::nullopt;
  std::ifstream in(path_of(file), std::ios::binary);
  Hash hash;
  in.read(reinterpret_cast<char*>(hash.data()), static_cast<std::streamsize>(hash.size()));
  if (!in || in.peek() != std::ifstream::traits_type::eof()) return std::nullopt;
  return hash;
}

void FingerprintMemory::remember(const FileIdentity& file, const Hash& hash) const {
  using std::chrono::duration_cast;
  using std::chrono::nanoseconds;
  const std::int64_t now = duration_cast<nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  if (folder_.empty() || file.bytes < kSmall || now - file.changed < kRecent) return;
  std::error_code ignored;
  std::filesystem::create_directories(folder_, ignored);
  const std::string path = path_of(file);
  const std::string temporary = fmt::format("{}.{}", path, ::getpid());
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(hash.data()), static_cast<std::streamsize>(hash.size()));
  out.close();
  if (out) {
    std::filesystem::rename(temporary, path, ignored);
  } else {
    std::filesystem::remove(temporary, ignored);
  }
}

}  // namespace dalsegno
