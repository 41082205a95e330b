#include "gguf/mapped_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

namespace dalsegno {
namespace {

using ::testing::HasSubstr;

class MappedFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("dalsegno-mapped-" + std::to_string(::getpid()));
    std::filesystem::create_directory(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string at(const std::string& name) const { return (folder_ / name).string(); }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(at(name), std::ios::binary) << bytes;
    return at(name);
  }
  static void expect_refused(const std::string& path, ErrorCode code, const std::string& words) {
    const auto file = MappedFile::open(path);
    ASSERT_FALSE(file.ok()) << path;
    EXPECT_EQ(file.error().code, code) << file.error().message;
    EXPECT_THAT(file.error().message, HasSubstr("'" + path + "'"));
    EXPECT_THAT(file.error().message, HasSubstr(words));
  }
  std::filesystem::path folder_;
};

TEST_F(MappedFileTest, HoldsTheBytesAndMoves) {
  auto file = MappedFile::open(write("three", "abc"));
  ASSERT_TRUE(file.ok());
  MappedFile moved = std::move(file).value();
  ASSERT_EQ(moved.bytes().size(), 3U);
  EXPECT_EQ(moved.bytes()[2], std::byte{'c'});
  MappedFile other;
  other = std::move(moved);
  EXPECT_EQ(other.bytes().size(), 3U);
}

TEST_F(MappedFileTest, MissingFiles) {
  expect_refused(at("absent"), ErrorCode::not_found, "there is no file");
  expect_refused(write("file", "abc") + "/below", ErrorCode::not_found, "there is no file");
  expect_refused("", ErrorCode::not_found, "there is no file");
}

TEST_F(MappedFileTest, WhatIsNoRegularFile) {
  expect_refused(folder_.string(), ErrorCode::not_found, "is a folder");
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  expect_refused(at("pipe"), ErrorCode::not_found, "is a pipe");
  expect_refused("/dev/zero", ErrorCode::not_found, "is a device");
}

TEST_F(MappedFileTest, EmptyFiles) {
  expect_refused(write("empty", ""), ErrorCode::corrupt, "is empty");
}

TEST_F(MappedFileTest, UnreadableFiles) {
  if (::geteuid() == 0) GTEST_SKIP() << "root reads every file";
  const std::string path = write("secret", "abc");
  ASSERT_EQ(::chmod(path.c_str(), 0), 0);
  expect_refused(path, ErrorCode::io, "cannot open");
}

TEST_F(MappedFileTest, TheSystemsReasonIsTold) {
  expect_refused(at(std::string(300, 'n')), ErrorCode::io, "File name");
}

}  // namespace
}  // namespace dalsegno
