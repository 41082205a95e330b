#include "gguf/gguf.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>

#include "gguf/gguf_writer.hpp"

namespace dalsegno {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Keeps the bytes alive beside the file that borrows them.
struct Opened {
  explicit Opened(const TestGguf& source) : bytes(source.bytes()) {
    auto result = GgufFile::borrow(std::as_bytes(std::span(bytes)), "test.gguf");
    EXPECT_TRUE(result.ok()) << result.error().message;
    if (result.ok()) file = std::move(result).value();
  }
  std::string bytes;
  std::unique_ptr<GgufFile> file;
};

std::string file_of_every_value() {
  TestGguf source;
  source.set("u8", {code(GgufType::u8), raw(std::uint8_t{200})});
  source.set("i8", {code(GgufType::i8), raw(std::int8_t{-100})});
  source.set("u16", {code(GgufType::u16), raw(std::uint16_t{60000})});
  source.set("i16", {code(GgufType::i16), raw(std::int16_t{-30000})});
  source.set("u32", u32(4000000000U));
  source.set("i32", i32(-2000000000));
  source.set("u64", u64(std::uint64_t{1} << 62U));
  source.set("u64 too large", u64(~std::uint64_t{0}));
  source.set("i64", {code(GgufType::i64), raw(std::int64_t{-5})});
  source.set("f32", f32(0.5F));
  source.set("f64", {code(GgufType::f64), raw(0.1)});
  source.set("yes", boolean(true));
  source.set("no", boolean(false));
  source.set("text", text(std::string("a\0b", 3)));
  source.set("texts", texts({"one", "", "three"}));
  source.set("ints", numbers(GgufType::i16, std::vector<std::int16_t>{-1, 2}));
  source.set("floats", numbers(GgufType::f32, std::vector<float>{0.25F, -1.0F}));
  source.set("nothing", texts({}));
  return source.bytes();
}

class GgufValues : public ::testing::Test {
 protected:
  void SetUp() override {
    auto result = GgufFile::borrow(std::as_bytes(std::span(bytes_)), "test.gguf");
    ASSERT_TRUE(result.ok()) << result.error().message;
    file_ = std::move(result).value();
  }
  const std::string bytes_ = file_of_every_value();
  std::unique_ptr<GgufFile> file_;
};

TEST_F(GgufValues, IntegersOfEveryWidth) {
  EXPECT_EQ(*file_->integer("u8"), 200);
  EXPECT_EQ(*file_->integer("i8"), -100);
  EXPECT_EQ(*file_->integer("u16"), 60000);
  EXPECT_EQ(*file_->integer("i16"), -30000);
  EXPECT_EQ(*file_->integer("u32"), 4000000000);
  EXPECT_EQ(*file_->integer("i32"), -2000000000);
  EXPECT_EQ(*file_->integer("u64"), std::int64_t{1} << 62);
  EXPECT_EQ(*file_->integer("i64"), -5);
  EXPECT_FALSE(file_->integer("u64 too large").ok());
  EXPECT_FALSE(file_->integer("f32").ok());
  EXPECT_FALSE(file_->integer("yes").ok());
  EXPECT_FALSE(file_->integer("ints").ok());
}

TEST_F(GgufValues, NumbersBooleansAndText) {
  EXPECT_EQ(*file_->number("f32"), 0.5);
  EXPECT_EQ(*file_->number("f64"), 0.1);
  EXPECT_FALSE(file_->number("u32").ok());
  EXPECT_TRUE(*file_->boolean_or("yes", false));
  EXPECT_FALSE(*file_->boolean_or("no", true));
  EXPECT_TRUE(*file_->boolean_or("absent", true));
  EXPECT_FALSE(file_->boolean_or("u8", true).ok());
  EXPECT_EQ(*file_->string("text"), std::string("a\0b", 3));
  EXPECT_FALSE(file_->string("texts").ok());
}

TEST_F(GgufValues, AbsenceIsAcceptedOnlyWithAFallback) {
  EXPECT_EQ(*file_->integer_or("absent", 7), 7);
  EXPECT_EQ(*file_->number_or("absent", 0.5), 0.5);
  EXPECT_EQ(*file_->string_or("absent", "x"), "x");
  EXPECT_FALSE(file_->integer_or("text", 7).ok());
  EXPECT_FALSE(file_->number_or("text", 7).ok());
  EXPECT_FALSE(file_->string_or("u8", "x").ok());
  const auto missing = file_->integer("absent");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::corrupt);
  EXPECT_EQ(missing.error().message, "'test.gguf': key 'absent' is missing, expected an integer");
  EXPECT_EQ(file_->integer("text").error().message, "'test.gguf': key 'text' is a string, expected an integer");
}

TEST_F(GgufValues, Arrays) {
  EXPECT_THAT(*file_->strings("texts"), ElementsAre("one", "", "three"));
  EXPECT_THAT(*file_->strings("nothing"), ElementsAre());
  EXPECT_THAT(*file_->integers("ints"), ElementsAre(-1, 2));
  EXPECT_THAT(*file_->floats("floats"), ElementsAre(0.25F, -1.0F));
  EXPECT_EQ(*file_->string_count("texts"), 3U);
  EXPECT_FALSE(file_->string_count("ints").ok());
  EXPECT_FALSE(file_->strings("text").ok());
  EXPECT_FALSE(file_->integers("floats").ok());
  EXPECT_FALSE(file_->floats("ints").ok());
  EXPECT_FALSE(file_->floats("absent").ok());
  EXPECT_EQ(file_->array_length("floats"), 2U);
  EXPECT_EQ(file_->array_length("text"), std::nullopt);
  EXPECT_EQ(file_->array_length("absent"), std::nullopt);
}

TEST_F(GgufValues, StringViewsPointIntoTheFile) {
  const auto views = file_->strings("texts");
  ASSERT_TRUE(views.ok());
  EXPECT_GE(views->at(0).data(), bytes_.data());
  EXPECT_LE(views->at(2).data() + views->at(2).size(), bytes_.data() + bytes_.size());
}

TEST(Gguf, VersionTwoReadsAsVersionThree) {
  TestGguf source = tiny_model();
  source.version = 2;
  const Opened opened(source);
  EXPECT_EQ(opened.file->version(), 2);
  EXPECT_EQ(opened.file->keys().front(), "general.architecture");
  EXPECT_EQ(opened.file->file_bytes(), opened.bytes.size());
}

TEST(Gguf, TensorsLieWhereTheFileSaysInItsAlignment) {
  TestGguf source;
  source.alignment = 128;
  source.set("general.alignment", u32(128));
  source.add_tensor("b", TensorType::f32, {3, 2});
  source.add_tensor("a", TensorType::q4_k, {256, 2, 1});
  const Opened opened(source);
  const GgufTensor* b = opened.file->find_tensor("b");
  const GgufTensor* a = opened.file->find_tensor("a");
  ASSERT_TRUE(a != nullptr && b != nullptr);
  EXPECT_EQ(opened.file->find_tensor("c"), nullptr);
  EXPECT_EQ(b->bytes, 24U);
  EXPECT_EQ(b->offset % 128, 0U);
  EXPECT_EQ(a->offset, b->offset + 128);
  EXPECT_EQ(a->bytes, 2U * 144U);
  EXPECT_THAT(a->dims, ElementsAre(256, 2, 1));
  EXPECT_EQ(reinterpret_cast<const char*>(b->data), opened.bytes.data() + b->offset);
  float second = 0;
  std::memcpy(&second, b->data + 4, 4);
  EXPECT_EQ(second, 2.0F / 16.0F);
}

TEST(Gguf, TensorsNeedNotBeInOrderOfTheirData) {
  TestGguf source;
  source.add_tensor("first", TensorType::f32, {8});
  source.add_tensor("second", TensorType::f32, {8});
  source.tensor("first").offset = 32;
  source.tensor("second").offset = 0;
  const Opened opened(source);
  EXPECT_GT(opened.file->find_tensor("first")->offset, opened.file->find_tensor("second")->offset);
}

TEST(Gguf, AFileOfKeysAloneIsWellFormed) {
  TestGguf source;
  source.set("general.architecture", text("llama"));
  const Opened opened(source);
  EXPECT_TRUE(opened.file->tensors().empty());
  EXPECT_TRUE(opened.file->has("general.architecture"));
}

TEST(Gguf, EveryGoldenModelOpens) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(DALSEGNO_GOLDEN "/tiny")) {
    if (entry.path().extension() != ".gguf") continue;
    const auto file = GgufFile::open(entry.path().string());
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_EQ((*file)->string_count("tokenizer.ggml.tokens").value(), 264U);
    EXPECT_NE((*file)->find_tensor("token_embd.weight"), nullptr);
    ++files;
  }
  EXPECT_EQ(files, 16);
}

TEST(Gguf, NamesFromTheFileCannotBreakTheSentence) {
  TestGguf source = tiny_model();
  source.tensors[0].name = "evil\n\x1b[2J\xff name" + std::string(150, 'x');
  source.tensors[0].type = 77;
  const std::string bytes = source.bytes();
  const auto file = GgufFile::borrow(std::as_bytes(std::span(bytes)), "new\nline.gguf");
  ASSERT_FALSE(file.ok());
  EXPECT_THAT(file.error().message, HasSubstr("'new\\x0aline.gguf'"));
  EXPECT_THAT(file.error().message, HasSubstr("'evil\\x0a\\x1b[2J\\xff namexxx"));
  EXPECT_EQ(file.error().message.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace dalsegno
