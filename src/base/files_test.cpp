#include "base/files.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>

namespace dalsegno {
namespace {

// A disk that forgets, when the power goes, what was not synced: contents of files, and names in folders.
// It fails at the operation given.
class FakeFiles final : public FileSystem {
 public:
  explicit FakeFiles(int fails_at = -1) : fails_at_(fails_at) {}

  struct Node {
    std::string written;
    std::string synced;
  };

  Result<std::unique_ptr<WritableFile>> create(const std::string& path) override {
    DALSEGNO_TRY(step());
    names_[path] = std::make_shared<Node>();
    return std::unique_ptr<WritableFile>(std::make_unique<Writer>(*this, names_[path]));
  }
  Result<std::unique_ptr<ReadableFile>> open(const std::string& path) override {
    return Error{ErrorCode::not_found, path};
  }
  Result<void> rename(const std::string& from, const std::string& to) override {
    DALSEGNO_TRY(step());
    names_[to] = names_.at(from);
    names_.erase(from);
    return {};
  }
  Result<void> remove(const std::string& path) override {
    names_.erase(path);
    return {};
  }
  void remove_abandoned(const std::string& path) override { names_.erase(path); }
  Result<void> sync_folder(const std::string& folder) override {
    DALSEGNO_TRY(step());
    EXPECT_EQ(folder, "folder");
    durable_ = names_;
    return {};
  }
  Result<void> make_folder(const std::string&) override { return {}; }
  Result<std::vector<Entry>> list(const std::string&) override { return std::vector<Entry>{}; }

  // What a reader finds after the power went: any name may be as it is or as it was.
  [[nodiscard]] std::set<std::string> possible(const std::string& path) const {
    std::set<std::string> found;
    for (const auto* names : {&names_, &durable_}) {
      const auto at = names->find(path);
      found.insert(at == names->end() ? "none" : at->second->synced);
    }
    return found;
  }
  [[nodiscard]] std::size_t names() const { return names_.size(); }

 private:
  class Writer final : public WritableFile {
   public:
    Writer(FakeFiles& files, std::shared_ptr<Node> node) : files_(files), node_(std::move(node)) {}
    Result<void> append(std::span<const std::byte> bytes) override {
      DALSEGNO_TRY(files_.step());
      node_->written.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return {};
    }
    Result<void> sync() override {
      DALSEGNO_TRY(files_.step());
      node_->synced = node_->written;
      return {};
    }

   private:
    FakeFiles& files_;
    const std::shared_ptr<Node> node_;
  };

  Result<void> step() {
    if (steps_++ == fails_at_) return Error{ErrorCode::io, "the disk is full"};
    return {};
  }

  const int fails_at_;
  int steps_ = 0;
  std::map<std::string, std::shared_ptr<Node>> names_;
  std::map<std::string, std::shared_ptr<Node>> durable_;
};

Result<void> save(FileSystem& files, const std::string& text) {
  DALSEGNO_ASSIGN(file, AtomicFile::create(files, "folder/a"));
  for (const char c : text) DALSEGNO_TRY(file.append(std::as_bytes(std::span(&c, 1))));
  return file.commit();
}

TEST(AtomicFile, IsDurableOnceCommitted) {
  FakeFiles files;
  ASSERT_TRUE(save(files, "new").ok());
  EXPECT_EQ(files.possible("folder/a"), std::set<std::string>{"new"});
  EXPECT_EQ(files.names(), 1U);
}

TEST(AtomicFile, IsOldOrNewWhereverItFails) {
  constexpr int kSteps = 7;  // create, three bytes, sync, rename, sync of the folder
  for (int fails_at = 0; fails_at < kSteps; ++fails_at) {
    FakeFiles files(kSteps + fails_at);
    ASSERT_TRUE(save(files, "old").ok());
    EXPECT_FALSE(save(files, "new").ok()) << fails_at;
    for (const std::string& found : files.possible("folder/a")) {
      EXPECT_TRUE(found == "old" || found == "new") << found << " after failing at " << fails_at;
    }
    EXPECT_EQ(files.names(), 1U) << "something was left behind";
  }
}

TEST(AtomicFile, ErrorsNameThePathThatWasAskedFor) {
  const auto file = AtomicFile::create(system_files(), "/no such folder/a");
  ASSERT_FALSE(file.ok());
  EXPECT_NE(file.error().message.find("'/no such folder/a'"), std::string::npos) << file.error().message;
}

TEST(AtomicFile, WritesWhatASymbolicLinkLeadsTo) {
  const std::string folder = ::testing::TempDir() + "dalsegno_links_" + std::to_string(getpid());
  std::filesystem::create_directories(folder + "/far");
  std::filesystem::create_symlink("far/file", folder + "/near");  // which is not there yet
  std::filesystem::create_symlink(folder + "/near", folder + "/link");
  for (const std::string& text : {std::string("old"), std::string("new")}) {
    auto file = AtomicFile::create(system_files(), folder + "/link");
    ASSERT_TRUE(file.ok()) << file.error().message;
    ASSERT_TRUE(file->append(std::as_bytes(std::span(text))).ok());
    ASSERT_TRUE(file->commit().ok());
    std::ifstream in(folder + "/far/file");
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), text);
  }
  EXPECT_TRUE(std::filesystem::is_symlink(folder + "/link"));
  EXPECT_TRUE(std::filesystem::is_symlink(folder + "/near"));
  std::filesystem::remove_all(folder);
}

TEST(AtomicFile, ReplacesNothingButFiles) {
  const std::string folder = ::testing::TempDir() + "dalsegno_pipes_" + std::to_string(getpid());
  std::filesystem::create_directories(folder + "/inner");
  ASSERT_EQ(::mkfifo((folder + "/pipe").c_str(), 0600), 0);
  std::filesystem::create_symlink("pipe", folder + "/link");
  for (const std::string& path :
       {folder + "/pipe", folder + "/link", folder + "/inner", std::string("/dev/null"), folder + "/a" + '\0' + "b"}) {
    const auto file = AtomicFile::create(system_files(), path);
    ASSERT_FALSE(file.ok()) << path;
    EXPECT_EQ(file.error().code, ErrorCode::invalid_argument);
  }
  EXPECT_TRUE(std::filesystem::is_fifo(folder + "/pipe"));
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/a"));
  std::filesystem::remove_all(folder);
}

TEST(Files, NamesTheFolderOfAPath) {
  EXPECT_EQ(folder_of("a/b"), "a");
  EXPECT_EQ(folder_of("b"), ".");
  EXPECT_EQ(folder_of("/b"), "/");
}

}  // namespace
}  // namespace dalsegno
