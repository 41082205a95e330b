// Damaged GGUF files, one class after another: each is one clear sentence, wherever it is noticed.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "dalsegno/diagnostics.hpp"
#include "gguf/gguf.hpp"
#include "gguf/gguf_writer.hpp"
#include "model/config.hpp"

namespace dalsegno {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using ::testing::HasSubstr;

constexpr std::uint64_t kHuge = std::uint64_t{1} << 63U;

// A file in memory of its own, with no byte to spare: a read past its end is seen by ASan.
class Borrowed {
 public:
  explicit Borrowed(const std::string& bytes)
      : bytes_(static_cast<std::byte*>(std::malloc(std::max<std::size_t>(bytes.size(), 1))), &std::free),
        size_(bytes.size()) {
    std::memcpy(bytes_.get(), bytes.data(), size_);
  }
  [[nodiscard]] Result<std::unique_ptr<GgufFile>> open() const {
    return GgufFile::borrow({bytes_.get(), size_}, "damaged.gguf");
  }

 private:
  std::unique_ptr<std::byte, decltype(&std::free)> bytes_;
  std::size_t size_;
};

class OnDisk {
 public:
  explicit OnDisk(const std::string& bytes)
      : path_(std::filesystem::temp_directory_path() / ("dalsegno-damaged-" + std::to_string(::getpid()) + ".gguf")) {
    std::ofstream(path_, std::ios::binary) << bytes;
  }
  ~OnDisk() { std::filesystem::remove(path_); }
  OnDisk(const OnDisk&) = delete;
  OnDisk& operator=(const OnDisk&) = delete;
  [[nodiscard]] std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

void expect_one_sentence(const Error& error, const std::string& label) {
  EXPECT_FALSE(error.message.empty()) << label;
  EXPECT_EQ(error.message.find_first_of("\n\r"), std::string::npos) << label << ": " << error.message;
  EXPECT_THAT(error.message, HasSubstr(".gguf'")) << label;
  EXPECT_LT(error.message.size(), 600U) << label;
}

// What open() and read_config() make of the bytes; every value and the ends of every tensor are touched.
Result<void> read_all(const std::string& bytes) {
  const Borrowed borrowed(bytes);
  DALSEGNO_ASSIGN(file, borrowed.open());
  for (const std::string& key : file->keys()) {
    (void)file->integer(key);
    (void)file->number(key);
    (void)file->boolean_or(key, false);
    (void)file->string(key);
    (void)file->strings(key);
    (void)file->integers(key);
    (void)file->floats(key);
  }
  unsigned sum = 0;
  for (const GgufTensor& tensor : file->tensors()) {
    sum += std::to_integer<unsigned>(tensor.data[0]) + std::to_integer<unsigned>(tensor.data[tensor.bytes - 1]);
  }
  EXPECT_GE(sum, 0U);
  DALSEGNO_TRY(read_config(*file));
  return {};
}

struct Case {
  const char* label;
  ErrorCode code;
  std::vector<std::string> words;  // that the sentence has: the place, what was found, what was expected
  std::function<void(TestGguf&)> damage;
};

// Corrupt files are refused by inspect too; those that are only beyond this version are described by it.
void check_inspect(const Case& damaged, const std::string& bytes) {
  const OnDisk on_disk(bytes);
  const auto report = inspect(on_disk.path(), {}, 0);
  if (report) {
    EXPECT_NE(damaged.code, ErrorCode::corrupt) << damaged.label;
    EXPECT_FALSE(report->runnable) << damaged.label;
    return;
  }
  EXPECT_EQ(report.error().code, damaged.code) << damaged.label << ": " << report.error().message;
  expect_one_sentence(report.error(), damaged.label);
}

void check(const std::vector<Case>& cases) {
  for (const Case& damaged : cases) {
    TestGguf file = tiny_model();
    damaged.damage(file);
    const std::string bytes = file.bytes();
    const auto result = read_all(bytes);
    if (result.ok()) {
      ADD_FAILURE() << damaged.label << " is accepted";
      continue;
    }
    EXPECT_EQ(result.error().code, damaged.code) << damaged.label << ": " << result.error().message;
    expect_one_sentence(result.error(), damaged.label);
    for (const std::string& word : damaged.words) EXPECT_THAT(result.error().message, HasSubstr(word)) << damaged.label;
    check_inspect(damaged, bytes);
  }
}

TEST(MalformedGguf, TheUndamagedFileIsAccepted) {
  const std::string bytes = tiny_model().bytes();
  const auto result = read_all(bytes);
  EXPECT_TRUE(result.ok()) << result.error().message;
  const OnDisk on_disk(bytes);
  const auto report = inspect(on_disk.path(), {}, 0);
  EXPECT_TRUE(report.ok()) << report.error().message;
}

TEST(MalformedGguf, Header) {
  check({
      {"other magic", ErrorCode::corrupt, {"'GGML'", "expected 'GGUF'"}, [](TestGguf& f) { f.magic = "GGML"; }},
      {"magic in lower case", ErrorCode::corrupt, {"'gguf'"}, [](TestGguf& f) { f.magic = "gguf"; }},
      {"magic reversed", ErrorCode::corrupt, {"'FUGG'"}, [](TestGguf& f) { f.magic = "FUGG"; }},
      {"magic of control bytes",
       ErrorCode::corrupt,
       {"'\\x00\\x0a\\x1b\\xff'"},
       [](TestGguf& f) { f.magic = std::string("\0\n\x1b\xff", 4); }},
      {"version 0", ErrorCode::unsupported, {"version 0", "expected 2 or 3"}, [](TestGguf& f) { f.version = 0; }},
      {"version 1", ErrorCode::unsupported, {"version 1", "expected 2 or 3"}, [](TestGguf& f) { f.version = 1; }},
      {"version 4", ErrorCode::unsupported, {"version 4"}, [](TestGguf& f) { f.version = 4; }},
      {"version 2^32-1", ErrorCode::unsupported, {"version 4294967295"}, [](TestGguf& f) { f.version = ~0U; }},
      {"big-endian", ErrorCode::unsupported, {"big-endian"}, [](TestGguf& f) { f.version = 0x03000000; }},
      {"2^63 keys", ErrorCode::corrupt, {"9223372036854775808 keys"}, [](TestGguf& f) { f.key_count = kHuge; }},
      {"2^64-1 keys", ErrorCode::corrupt, {"keys"}, [](TestGguf& f) { f.key_count = ~std::uint64_t{0}; }},
      {"2^40 keys",
       ErrorCode::corrupt,
       {"1099511627776 keys"},
       [](TestGguf& f) { f.key_count = std::uint64_t{1} << 40U; }},
      {"2^63 tensors", ErrorCode::corrupt, {"tensors"}, [](TestGguf& f) { f.tensor_count = kHuge; }},
      {"2^64-1 tensors", ErrorCode::corrupt, {"tensors"}, [](TestGguf& f) { f.tensor_count = ~std::uint64_t{0}; }},
      {"one key too many", ErrorCode::corrupt, {}, [](TestGguf& f) { f.key_count = f.keys.size() + 1; }},
      {"one key too few",
       ErrorCode::unsupported,
       {"'tokenizer.ggml.eos_token_id'"},
       [](TestGguf& f) { f.key_count = f.keys.size() - 1; }},
      {"one tensor too many",
       ErrorCode::corrupt,
       {"tensor 21 of 21"},
       [](TestGguf& f) { f.tensor_count = f.tensors.size() + 1; }},
      {"one tensor too few", ErrorCode::corrupt, {}, [](TestGguf& f) { f.tensor_count = f.tensors.size() - 1; }},
  });
}

TEST(MalformedGguf, Keys) {
  const auto lie = [](std::uint64_t length) {
    return [=](TestGguf& f) { f.key("general.name").name_length = length; };
  };
  check({
      {"empty key", ErrorCode::corrupt, {"key 1 of", "0 bytes"}, [](TestGguf& f) { f.keys[0].name = ""; }},
      {"key of 70000 bytes",
       ErrorCode::corrupt,
       {"70000 bytes", "65535"},
       [](TestGguf& f) { f.keys[0].name = std::string(70000, 'k'); }},
      {"key length 2^64-1", ErrorCode::corrupt, {"key 2 of", "18446744073709551615"}, lie(~std::uint64_t{0})},
      {"key length 2^63", ErrorCode::corrupt, {"key 2 of"}, lie(kHuge)},
      {"key length past the end", ErrorCode::corrupt, {"key 2 of", "1000000"}, lie(1000000)},
      {"key twice",
       ErrorCode::corrupt,
       {"'general.name'", "twice"},
       [](TestGguf& f) {
         f.keys.push_back({"general.name", text("again"), {}});
       }},
      {"value type 13",
       ErrorCode::corrupt,
       {"'general.name'", "type 13"},
       [](TestGguf& f) { f.key("general.name").value.type = 13; }},
      {"value type 2^32-1",
       ErrorCode::corrupt,
       {"type 4294967295"},
       [](TestGguf& f) { f.key("general.name").value.type = ~0U; }},
      {"string length past the end",
       ErrorCode::corrupt,
       {"'general.name'", "1000000"},
       [](TestGguf& f) {
         f.set("general.name", {code(GgufType::string), raw(std::uint64_t{1000000})});
       }},
      {"string length 2^64-8",
       ErrorCode::corrupt,
       {"'general.name'"},
       [](TestGguf& f) {
         f.set("general.name", {code(GgufType::string), raw(~std::uint64_t{7})});
       }},
      {"boolean of value 2",
       ErrorCode::corrupt,
       {"'flag'", "value 2", "0 or 1"},
       [](TestGguf& f) {
         f.set("flag", {code(GgufType::boolean), "\x02"});
       }},
      {"value cut by the next key",
       ErrorCode::corrupt,
       {},
       [](TestGguf& f) { f.key("general.name").value.bytes = "ab"; }},
      {"alignment 0",
       ErrorCode::corrupt,
       {"'general.alignment'", "is 0"},
       [](TestGguf& f) { f.set("general.alignment", u32(0)); }},
      {"alignment 24",
       ErrorCode::corrupt,
       {"'general.alignment'", "is 24", "power of two"},
       [](TestGguf& f) { f.set("general.alignment", u32(24)); }},
      {"alignment 4",
       ErrorCode::corrupt,
       {"'general.alignment'"},
       [](TestGguf& f) { f.set("general.alignment", u32(4)); }},
      {"alignment 2^31",
       ErrorCode::corrupt,
       {"'general.alignment'"},
       [](TestGguf& f) { f.set("general.alignment", u32(1U << 31U)); }},
      {"alignment as text",
       ErrorCode::corrupt,
       {"'general.alignment'", "a string"},
       [](TestGguf& f) { f.set("general.alignment", text("32")); }},
      {"one of five parts",
       ErrorCode::unsupported,
       {"5 parts", "split.count"},
       [](TestGguf& f) {
         f.set("split.count", {code(GgufType::u16), raw(std::uint16_t{5})});
       }},
      {"parts as text", ErrorCode::corrupt, {"split.count"}, [](TestGguf& f) { f.set("split.count", text("5")); }},
  });
}

TEST(MalformedGguf, Arrays) {
  const auto count = [](GgufType element, std::uint64_t value) {
    return [=](TestGguf& f) { f.set("list", array(element, value, "")); };
  };
  check({
      {"2^63 strings", ErrorCode::corrupt, {"'list'", "9223372036854775808"}, count(GgufType::string, kHuge)},
      {"2^61+1 strings, 8 bytes after overflow",
       ErrorCode::corrupt,
       {"'list'"},
       count(GgufType::string, (std::uint64_t{1} << 61U) + 1)},
      {"2^62+1 floats, 4 bytes after overflow",
       ErrorCode::corrupt,
       {"'list'"},
       count(GgufType::f32, (std::uint64_t{1} << 62U) + 1)},
      {"2^64-1 bytes", ErrorCode::corrupt, {"'list'"}, count(GgufType::u8, ~std::uint64_t{0})},
      {"a million floats", ErrorCode::corrupt, {"'list'", "1000000"}, count(GgufType::f64, 1000000)},
      {"array of arrays", ErrorCode::unsupported, {"'list'", "array of arrays"}, count(GgufType::array, 1)},
      {"element type 99",
       ErrorCode::corrupt,
       {"'list'", "99"},
       [](TestGguf& f) {
         f.set("list", {code(GgufType::array), raw(99U) + raw(std::uint64_t{0})});
       }},
      {"string in an array past the end",
       ErrorCode::corrupt,
       {"element 1 of key 'list'", "2000000"},
       [](TestGguf& f) { f.set("list", array(GgufType::string, 2, raw_string("a") + raw(std::uint64_t{2000000}))); }},
  });
}

TEST(MalformedGguf, TensorHeaders) {
  const std::string name = "blk.0.attn_q.weight";
  const auto dims = [=](std::vector<std::uint64_t> value) { return [=](TestGguf& f) { f.tensor(name).dims = value; }; };
  const auto type = [=](std::uint32_t value) { return [=](TestGguf& f) { f.tensor(name).type = value; }; };
  const auto offset = [=](std::uint64_t value) { return [=](TestGguf& f) { f.tensor(name).offset = value; }; };
  check({
      {"no dimensions", ErrorCode::corrupt, {name, "0 dimensions"}, dims({})},
      {"five dimensions", ErrorCode::corrupt, {name, "5 dimensions"}, dims({32, 1, 1, 1, 1})},
      {"2^32-1 dimensions",
       ErrorCode::corrupt,
       {name, "4294967295 dimensions"},
       [=](TestGguf& f) { f.tensor(name).dimensions = ~0U; }},
      {"dimension 0", ErrorCode::corrupt, {name, "dimension 1", "is 0"}, dims({32, 0})},
      {"dimensions whose product is 2^64",
       ErrorCode::corrupt,
       {name, "overflow"},
       dims({std::uint64_t{1} << 32U, std::uint64_t{1} << 32U})},
      {"dimensions whose product is 2^64+2^33",
       ErrorCode::corrupt,
       {name, "overflow"},
       dims({std::uint64_t{1} << 33U, (std::uint64_t{1} << 31U) + 1})},
      {"four dimensions of 2^16", ErrorCode::corrupt, {name}, dims({65536, 65536, 65536, 65536})},
      {"one dimension of 2^63", ErrorCode::corrupt, {name}, dims({kHuge})},
      {"rows of 33 in blocks of 32",
       ErrorCode::corrupt,
       {name, "33 elements", "multiple of 32", "Q8_0"},
       dims({33, 32})},
      {"more rows than the file has", ErrorCode::corrupt, {name, "the file ends"}, dims({32, 1 << 20})},
      {"type code of Q2_K", ErrorCode::unsupported, {name, "type Q2_K", "Q6_K"}, type(10)},
      {"type code of a removed type", ErrorCode::unsupported, {name, "type code 4"}, type(4)},
      {"type code I32", ErrorCode::unsupported, {name, "type I32"}, type(26)},
      {"type code 2^32-1", ErrorCode::unsupported, {name, "4294967295"}, type(~0U)},
      {"offset off the alignment", ErrorCode::corrupt, {name, "multiple of the alignment 32"}, offset(33)},
      {"offset past the end", ErrorCode::corrupt, {name, "the file ends"}, offset(std::uint64_t{1} << 30U)},
      {"offset 2^64-32", ErrorCode::corrupt, {name, "18446744073709551584"}, offset(~std::uint64_t{31})},
      {"two tensors at one place", ErrorCode::corrupt, {name, "token_embd.weight", "overlap"}, offset(0)},
      {"tensors that overlap by a part", ErrorCode::corrupt, {"overlap"}, offset(64)},
      {"alignment that the data do not have",
       ErrorCode::corrupt,
       {"alignment 4096"},
       [](TestGguf& f) { f.set("general.alignment", u32(4096)); }},
      {"tensor twice",
       ErrorCode::corrupt,
       {"'output_norm.weight'", "twice"},
       [](TestGguf& f) { f.tensors.push_back(f.tensor("output_norm.weight")); }},
      {"tensor without a name",
       ErrorCode::corrupt,
       {"tensor 1 of", "0 bytes"},
       [](TestGguf& f) { f.tensors[0].name = ""; }},
      {"tensor name of 300 bytes",
       ErrorCode::corrupt,
       {"tensor 1 of", "300"},
       [](TestGguf& f) { f.tensors[0].name = std::string(300, 't'); }},
      {"tensor name length 2^64-1",
       ErrorCode::corrupt,
       {"tensor 1 of"},
       [](TestGguf& f) { f.tensors[0].name_length = ~std::uint64_t{0}; }},
  });
}

TEST(MalformedGguf, MissingKeys) {
  std::vector<Case> cases;
  for (const char* key : {"general.architecture", "llama.context_length", "llama.embedding_length", "llama.block_count",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.tokens"}) {
    cases.push_back({key, ErrorCode::corrupt, {key, "missing", "expected"}, [=](TestGguf& f) { f.remove_key(key); }});
  }
  check(cases);
}

TEST(MalformedGguf, KeysOfAnotherType) {
  std::vector<Case> cases;
  for (const char* key : {"llama.context_length", "llama.embedding_length", "llama.block_count",
                          "llama.feed_forward_length", "llama.attention.head_count", "llama.attention.head_count_kv",
                          "llama.attention.key_length", "llama.attention.value_length", "llama.rope.dimension_count",
                          "llama.vocab_size", "llama.expert_count", "llama.attention.sliding_window"}) {
    cases.push_back(
        {key, ErrorCode::corrupt, {key, "a 32-bit float", "an integer"}, [=](TestGguf& f) { f.set(key, f32(2.0F)); }});
  }
  for (const char* key : {"llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base", "llama.rope.scaling.factor",
                          "llama.rope.scale_linear"}) {
    cases.push_back({key, ErrorCode::corrupt, {key, "a string", "a floating-point number"}, [=](TestGguf& f) {
                       f.set(key, text("1.0"));
                     }});
  }
  for (const char* key : {"general.architecture", "general.name", "llama.rope.scaling.type"}) {
    cases.push_back({key, ErrorCode::corrupt, {key, "an unsigned 32-bit integer", "a string"}, [=](TestGguf& f) {
                       f.set(key, u32(7));
                     }});
  }
  cases.push_back(
      {"tokens as numbers", ErrorCode::corrupt, {"tokenizer.ggml.tokens", "an array of strings"}, [](TestGguf& f) {
         f.set("tokenizer.ggml.tokens", numbers(GgufType::i32, std::vector<int>(259)));
       }});
  cases.push_back(
      {"token types as text", ErrorCode::corrupt, {"tokenizer.ggml.token_type", "is no array"}, [](TestGguf& f) {
         f.set("tokenizer.ggml.token_type", text("1"));
       }});
  check(cases);
}

// A truncation is noticed at every byte of the header, and wherever the data are cut.
TEST(MalformedGguf, TruncatedAtEveryByte) {
  TestGguf file = tiny_model({.layers = 1});
  const std::string bytes = file.bytes();
  const std::size_t header = file.header().size();
  for (std::size_t cut = 0; cut < bytes.size(); cut += cut < header ? 1 : 61) {
    const Borrowed borrowed(bytes.substr(0, cut));
    const auto opened = borrowed.open();
    ASSERT_FALSE(opened.ok()) << "cut at " << cut;
    EXPECT_EQ(opened.error().code, ErrorCode::corrupt) << "cut at " << cut;
    expect_one_sentence(opened.error(), "cut at " + std::to_string(cut));
  }
  EXPECT_FALSE(Borrowed(bytes.substr(0, bytes.size() - 1)).open().ok());
}

TEST(MalformedGguf, TruncatedFilesThroughInspect) {
  TestGguf file = tiny_model({.layers = 1});
  const std::string bytes = file.bytes();
  for (std::size_t cut = 0; cut < bytes.size(); cut += cut < 400 ? 1 : 197) {
    const OnDisk on_disk(bytes.substr(0, cut));
    const auto report = inspect(on_disk.path(), {}, 0);
    ASSERT_FALSE(report.ok()) << "cut at " << cut;
    expect_one_sentence(report.error(), "cut at " + std::to_string(cut));
  }
}

// The padding after the last tensor may be whole or left out; a part of it is a cut.
TEST(MalformedGguf, PaddingAtTheEnd) {
  TestGguf file = tiny_model({.architecture = "llama", .type = TensorType::q8_0});
  std::swap(file.tensors.back(), file.tensors.front());  // 259 rows of 34 bytes end between two alignments
  EXPECT_TRUE(read_all(file.bytes()).ok());
  file.pad_end = false;
  const std::string bare = file.bytes();
  EXPECT_TRUE(read_all(bare).ok());
  const auto cut = read_all(bare + std::string(3, '\0'));
  ASSERT_FALSE(cut.ok());
  EXPECT_THAT(cut.error().message, HasSubstr("padding"));
}

// Bytes changed at random give a reading or a sentence, never anything else.
TEST(MalformedGguf, RandomDamage) {
  TestGguf file = tiny_model({.layers = 1});
  const std::string whole = file.bytes();
  const std::size_t header = file.header().size();
  std::mt19937 random(20261121);  // NOLINT(cert-msc51-cpp): the same files every time
  int refused = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string bytes = whole;
    for (unsigned i = 1 + random() % 4; i > 0; --i) bytes[random() % header] = static_cast<char>(random() % 256);
    const auto result = read_all(bytes);
    if (result.ok()) continue;
    ++refused;
    expect_one_sentence(result.error(), "round " + std::to_string(round));
  }
  EXPECT_GT(refused, 400);
}

TEST(MalformedGguf, RandomDamageThroughInspect) {
  TestGguf file = tiny_model({.layers = 1});
  const std::string whole = file.bytes();
  std::mt19937 random(20261122);  // NOLINT(cert-msc51-cpp): the same files every time
  for (int round = 0; round < 300; ++round) {
    std::string bytes = whole;
    for (unsigned i = 1 + random() % 4; i > 0; --i) bytes[random() % 4096] = static_cast<char>(random() % 256);
    const OnDisk on_disk(bytes);
    const auto report = inspect(on_disk.path(), {.format = KvFormat::f32}, 0);
    if (!report.ok()) expect_one_sentence(report.error(), "round " + std::to_string(round));
  }
}

TEST(MalformedGguf, HugeTensorOfAnotherFileIsNotReadByNumber) {
  // 65535 strings announced in 16 bytes: the refusal must come before room is made for them.
  TestGguf file = tiny_model();
  file.set("tokenizer.ggml.tokens", array(GgufType::string, 65535, raw(std::uint64_t{0}) + raw(std::uint64_t{0})));
  EXPECT_FALSE(read_all(file.bytes()).ok());
}

}  // namespace
}  // namespace dalsegno
