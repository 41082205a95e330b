#include "store/safetensors.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

namespace dalsegno {
namespace {

using Bytes = std::vector<std::byte>;

// A folder that goes with the test.
class SafetensorsTest : public ::testing::Test {
 protected:
  SafetensorsTest() {
    folder_ =
        std::filesystem::path(::testing::TempDir()) /
        fmt::format("safetensors_{}_{}", ::getpid(), ::testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~SafetensorsTest() override { std::filesystem::remove_all(folder_); }
  [[nodiscard]] std::string path() const { return (folder_ / "a.safetensors").string(); }
  [[nodiscard]] std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::filesystem::path folder_;
};

Bytes random_bytes(std::size_t count) {
  std::mt19937 random(7);
  Bytes bytes(count);
  for (std::byte& each : bytes) each = static_cast<std::byte>(random());
  return bytes;
}

Bytes contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  Bytes bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

void put(const std::string& path, const Bytes& bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

SafetensorsHeader header_of(std::size_t bytes) {
  return {.metadata = {{"title", "a \"quoted\" name, \xC3\xA9"}},
          .tensors = {{"tokens", "I32", {3}}, {"empty", "BF16", {0, 4}}, {"values", "U8", {bytes}}}};
}

void write(const std::string& path, const Bytes& bytes) {
  auto writer = SafetensorsWriter::create(system_files(), path, header_of(bytes.size() - 12));
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  const std::span<const std::byte> all(bytes);
  ASSERT_TRUE(writer->append(all.first(12)).ok());
  ASSERT_TRUE(writer->append(all.subspan(12)).ok());
  const Result<void> done = writer->commit();
  ASSERT_TRUE(done.ok()) << done.error().message;
}

Result<Bytes> read(const std::string& path) {
  DALSEGNO_ASSIGN(reader, SafetensorsReader::open(system_files(), path));
  Bytes bytes(static_cast<std::size_t>(reader.header().bytes()));
  for (std::size_t at = 0; at < bytes.size(); at += 1000) {
    DALSEGNO_TRY(reader.read(std::span(bytes).subspan(at, std::min<std::size_t>(1000, bytes.size() - at))));
  }
  DALSEGNO_TRY(reader.finish());
  return bytes;
}

TEST_F(SafetensorsTest, WhatWasWrittenIsRead) {
  for (const std::size_t size : {12UL, 13UL, (3UL << 20) + 17, (1UL << 20) - 1, 1UL << 20}) {
    const Bytes bytes = random_bytes(size);
    write(path(), bytes);
    const Result<Bytes> back = read(path());
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(back.value(), bytes);
    EXPECT_EQ(files(), 1U);
  }
  const auto reader = SafetensorsReader::open(system_files(), path());
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ(reader->header().metadata, header_of(1).metadata);
  EXPECT_EQ(reader->header().tensors.size(), 3U);
  EXPECT_EQ(reader->header().tensors[1].shape, (std::vector<std::uint64_t>{0, 4}));
}

TEST_F(SafetensorsTest, TensorsBeginAtMultiplesOfEightBytes) {
  write(path(), random_bytes(20));
  const Bytes file = contents(path());
  EXPECT_EQ(std::to_integer<int>(file[0]) % 8, 0);
  EXPECT_EQ(file.size() % 4, 0U);
}

TEST_F(SafetensorsTest, EveryTruncationAndEveryFlippedBitIsRefused) {
  write(path(), random_bytes(300));
  const Bytes good = contents(path());
  ASSERT_TRUE(read(path()).ok());
  for (std::size_t size = 0; size < good.size(); ++size) {
    put(path(), Bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)));
    ASSERT_FALSE(read(path()).ok()) << "cut to " << size << " bytes";
  }
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    Bytes bad = good;
    bad[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    put(path(), bad);
    const Result<Bytes> back = read(path());
    ASSERT_FALSE(back.ok()) << "bit " << bit;
    ASSERT_EQ(back.error().code, ErrorCode::corrupt) << back.error().message;
  }
  Bytes longer = good;
  longer.push_back(std::byte{0});
  put(path(), longer);
  EXPECT_FALSE(read(path()).ok());
}

TEST_F(SafetensorsTest, HeadersThatCannotBeAreRefused) {
  const auto with_header = [&](const std::string& header) {
    Bytes file(8 + header.size() + 64);
    for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<std::byte>(header.size() >> (8 * i));
    std::memcpy(&file[8], header.data(), header.size());
    put(path(), file);
    return read(path());
  };
  const std::string checksum = R"("checksum":{"dtype":"U8","shape":[32],"data_offsets":[32,64]})";
  for (const std::string& bad : {
           std::string("[]"),
           std::string("{"),
           std::string("{}"),
           R"({"a":{"dtype":"U8","shape":[32],"data_offsets":[0,32]},)" + checksum.substr(0, checksum.size() - 1),
           R"({"a":{"dtype":"U8","shape":[31],"data_offsets":[0,32]},)" + checksum + "}",
           R"({"a":{"dtype":"U9","shape":[32],"data_offsets":[0,32]},)" + checksum + "}",
           R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,32]},)" + checksum + "}",
           R"({"a":{"dtype":"U8","shape":[18446744073709551615,2],"data_offsets":[0,32]},)" + checksum + "}",
           R"({"a":{"dtype":"U8","shape":[16],"data_offsets":[16,32]},)" + checksum + "}",
           R"({"a":{"dtype":"U8","shape":[32],"data_offsets":[32,0]},)" + checksum + "}",
           R"({"__metadata__":{"a":1},"a":{"dtype":"U8","shape":[32],"data_offsets":[0,32]},)" + checksum + "}",
           std::string(R"({"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}})"),
       }) {
    const Result<Bytes> back = with_header(bad);
    ASSERT_FALSE(back.ok()) << bad;
    EXPECT_EQ(back.error().code, ErrorCode::corrupt) << bad;
  }
}

TEST_F(SafetensorsTest, WithoutCommitWhatWasThereStays) {
  write(path(), random_bytes(100));
  const Bytes before = contents(path());
  {
    auto writer = SafetensorsWriter::create(system_files(), path(), header_of(5));
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->append(random_bytes(12)).ok());
    EXPECT_EQ(files(), 2U);
  }
  EXPECT_EQ(files(), 1U);
  EXPECT_EQ(contents(path()), before);
}

TEST_F(SafetensorsTest, WhatAKilledWriterLeftIsRemoved) {
  put(path() + ".1-0.part", random_bytes(5));
  write(path(), random_bytes(100));
  EXPECT_EQ(files(), 1U);
}

TEST_F(SafetensorsTest, WhatCannotBeOpenedIsSaid) {
  EXPECT_EQ(read(path()).error().code, ErrorCode::not_found);
  EXPECT_EQ(read(folder_.string()).error().code, ErrorCode::invalid_argument);
  const auto writer = SafetensorsWriter::create(system_files(), (folder_ / "no" / "a").string(), header_of(1));
  ASSERT_FALSE(writer.ok());
  EXPECT_EQ(writer.error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace dalsegno
