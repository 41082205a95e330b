#include "runtime/fingerprint_memory.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace dalsegno {
namespace {

class FingerprintMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::remove_all(above_); }
  void TearDown() override { std::filesystem::remove_all(above_); }
  [[nodiscard]] std::filesystem::path only_file() const {
    std::filesystem::path found;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      EXPECT_TRUE(found.empty());
      found = entry.path();
    }
    return found;
  }

  const std::string above_ = fmt::format("{}dalsegno_fingerprints_{}", ::testing::TempDir(), ::getpid());
  const std::string folder_ = above_ + "/below";
  const FingerprintMemory memory_{folder_};
  const FileIdentity file_{1, 2, 1ULL << 30, 4, 5};
  const FingerprintMemory::Hash hash_{std::byte{1}, std::byte{2}, std::byte{255}};
};

TEST_F(FingerprintMemoryTest, RemembersWhatItWasTold) {
  EXPECT_EQ(memory_.recall(file_), std::nullopt);
  memory_.remember(file_, hash_);
  EXPECT_EQ(memory_.recall(file_), hash_);
  EXPECT_EQ(FingerprintMemory(folder_).recall(file_), hash_);
}

TEST_F(FingerprintMemoryTest, AnyOtherIdentityIsAnotherFile) {
  memory_.remember(file_, hash_);
  for (int field = 0; field < 5; ++field) {
    FileIdentity other = file_;
    if (field == 0) other.device++;
    if (field == 1) other.inode++;
    if (field == 2) other.bytes++;
    if (field == 3) other.modified++;
    if (field == 4) other.changed++;
    EXPECT_EQ(memory_.recall(other), std::nullopt) << field;
  }
}

TEST_F(FingerprintMemoryTest, ADamagedFileIsForgotten) {
  memory_.remember(file_, hash_);
  const auto path = only_file();
  for (const std::size_t size : {0, 31, 33}) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << std::string(size, 'x');
    EXPECT_EQ(memory_.recall(file_), std::nullopt) << size;
  }
  memory_.remember(file_, hash_);
  EXPECT_EQ(memory_.recall(file_), hash_);
}

TEST_F(FingerprintMemoryTest, NeitherSmallFilesNorFreshOnesAreRemembered) {
  FileIdentity small = file_;
  small.bytes = 1000;
  FileIdentity fresh = file_;
  fresh.changed =
      std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  memory_.remember(small, hash_);
  memory_.remember(fresh, hash_);
  EXPECT_EQ(memory_.recall(small), std::nullopt);
  EXPECT_EQ(memory_.recall(fresh), std::nullopt);
}

TEST_F(FingerprintMemoryTest, AFolderThatCannotBeMadeIsNoError) {
  const FingerprintMemory nowhere("/dev/null/below");
  nowhere.remember(file_, hash_);
  EXPECT_EQ(nowhere.recall(file_), std::nullopt);
  const FingerprintMemory none("");
  none.remember(file_, hash_);
  EXPECT_EQ(none.recall(file_), std::nullopt);
}

}  // namespace
}  // namespace dalsegno
