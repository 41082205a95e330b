// Every reference row of tests/golden through the public Tokenizer: tokens, disputed tokens, chat texts,
// the long texts behind the NLLs, and the tiny models. The two real models are needed: `make models`.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "dalsegno/tokenizer.hpp"
#include "runtime/tokenizer_impl.hpp"
#include "text/vocabulary.hpp"

namespace dalsegno {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

const fs::path kGolden = DALSEGNO_GOLDEN;

fs::path models_folder() {
  if (const char* folder = std::getenv("DALSEGNO_MODELS"); folder != nullptr && *folder != '\0') return folder;
  if (const char* data = std::getenv("XDG_DATA_HOME"); data != nullptr && *data != '\0') {
    return fs::path(data) / "dalsegno" / "models";
  }
  const char* home = std::getenv("HOME");
  return fs::path(home == nullptr ? "" : home) / ".local/share/dalsegno/models";
}

// Opened once; null after a failure that says what to do.
const Tokenizer* real_tokenizer(const std::string& model) {
  static std::map<std::string, Tokenizer> opened;
  if (const auto found = opened.find(model); found != opened.end()) return &found->second;
  const fs::path path =
      models_folder() / (model == "smollm2" ? "SmolLM2-135M-Instruct.Q4_1.gguf" : "gemma-3-270m-q4_k_m.gguf");
  auto tokenizer = Tokenizer::open(path.string());
  if (!tokenizer.ok()) {
    ADD_FAILURE() << tokenizer.error().message << "; `make models` gets the models these tests need";
    return nullptr;
  }
  return &opened.emplace(model, std::move(tokenizer).value()).first->second;
}

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  EXPECT_TRUE(in.good() && !text.str().empty()) << path;
  return text.str();
}

std::vector<json::object> rows(const std::string& file) {
  std::istringstream lines(read(kGolden / file));
  std::vector<json::object> found;
  for (std::string line; std::getline(lines, line);) found.push_back(json::parse(line).as_object());
  EXPECT_FALSE(found.empty()) << file;
  return found;
}

std::vector<TokenId> ids_of(const json::value& value) {
  return json::value_to<std::vector<TokenId>>(value);
}

std::vector<TokenId> encode(const Tokenizer& tokenizer, const json::object& row) {
  const auto flag = [&](const char* name) { return row.contains(name) && row.at(name).as_bool(); };
  auto ids = tokenizer.encode(std::string_view(row.at("text").as_string()),
                              {.special = flag("parse_special"), .bos = flag("add_special")});
  EXPECT_TRUE(ids.ok()) << (ids.ok() ? "" : ids.error().message);
  return ids.ok() ? std::move(ids).value() : std::vector<TokenId>{};
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  StreamDecoder decoder(*tokenizer.impl().vocabulary);
  std::string text;
  for (const TokenId id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

void check_tokens(const std::string& model) {
  const Tokenizer* tokenizer = real_tokenizer(model);
  ASSERT_NE(tokenizer, nullptr);
  for (const json::object& row : rows("tokens-" + model + ".jsonl")) {
    const std::vector<TokenId> ids = encode(*tokenizer, row);
    EXPECT_EQ(ids, ids_of(row.at("ids"))) << row;
    const auto text = tokenizer->decode(ids);
    ASSERT_TRUE(text.ok());
    EXPECT_EQ(streamed(*tokenizer, ids), *text) << row;
  }
}

TEST(TextGolden, SmolLM2Tokens) {
  check_tokens("smollm2");
}

TEST(TextGolden, Gemma3Tokens) {
  check_tokens("gemma3");
}

TEST(TextGolden, DisputedTokensAreTheRightOnes) {
  for (const json::object& row : rows("tokens-disputed.jsonl")) {
    const Tokenizer* tokenizer = real_tokenizer(std::string(row.at("model").as_string()));
    ASSERT_NE(tokenizer, nullptr);
    const char* right = row.at("right") == "llama.cpp" ? "ids_llamacpp" : "ids_transformers";
    EXPECT_EQ(encode(*tokenizer, row), ids_of(row.at(right))) << row;
  }
}

// The reference encoded these bytes of a text to these ids; here the ids themselves give the text.
TEST(TextGolden, LongTextsComeBackAsTheirIds) {
  for (const char* model : {"smollm2", "gemma3"}) {
    const Tokenizer* tokenizer = real_tokenizer(model);
    ASSERT_NE(tokenizer, nullptr);
    const json::value golden = json::parse(read(kGolden / (std::string("nll-") + model + ".json")));
    const json::object& row = golden.as_object();
    ASSERT_TRUE(row.at("retokenises").as_bool());
    const std::vector<TokenId> ids = ids_of(row.at("ids"));
    const auto text = tokenizer->decode(ids);
    ASSERT_TRUE(text.ok()) << text.error().message;
    EXPECT_EQ(static_cast<std::int64_t>(text->size()),
              row.at("bytes").at(1).as_int64() - row.at("bytes").at(0).as_int64());
    EXPECT_EQ(tokenizer->encode(*text, {.special = false, .bos = true}).value(), ids) << model;
  }
}

TEST(TextGolden, Conversations) {
  const Tokenizer* tokenizer = real_tokenizer("smollm2");
  ASSERT_NE(tokenizer, nullptr);
  for (const json::object& row : rows("chat-smollm2.jsonl")) {
    const bool prompt = row.at("add_generation_prompt").as_bool();
    const auto text = tokenizer->render(json::serialize(row.at("messages")), prompt);
    ASSERT_TRUE(text.ok()) << text.error().message;
    EXPECT_EQ(*text, std::string_view(row.at("text").as_string()));
    const auto same = tokenizer->render(json::serialize(json::object{{"messages", row.at("messages")}}), prompt);
    EXPECT_TRUE(same.ok() && *same == *text) << row;
  }
}

TEST(TextGolden, AModelWithoutATemplateSaysSo) {
  const Tokenizer* tokenizer = real_tokenizer("gemma3");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_FALSE(tokenizer->has_template());
  EXPECT_EQ(tokenizer->render("[]", true).error().code, ErrorCode::invalid_argument);
}

TEST(TextGolden, MessagesThatAreNoneAreRefused) {
  const Tokenizer* tokenizer = real_tokenizer("smollm2");
  ASSERT_NE(tokenizer, nullptr);
  for (const std::string& bad : {std::string("{"), std::string("3"), std::string("{}"), std::string("{\"messages\":1}"),
                                 std::string(1'000'000, '[')}) {
    EXPECT_EQ(tokenizer->render(bad, true).error().code, ErrorCode::invalid_argument) << bad.substr(0, 20);
  }
}

TEST(TextGolden, EndsOfTurn) {
  const Tokenizer* smol = real_tokenizer("smollm2");
  const Tokenizer* gemma = real_tokenizer("gemma3");
  ASSERT_TRUE(smol != nullptr && gemma != nullptr);
  // <|endoftext|> and <|im_end|>, but not <|im_start|>; <eos> and <end_of_turn>, but not <start_of_turn>.
  for (const TokenId id : {0, 2}) EXPECT_TRUE(smol->is_end_of_turn(id)) << id;
  for (const TokenId id : {1, 500, -1, smol->vocabulary_size()}) EXPECT_FALSE(smol->is_end_of_turn(id)) << id;
  for (const TokenId id : {1, 106}) EXPECT_TRUE(gemma->is_end_of_turn(id)) << id;
  for (const TokenId id : {0, 2, 105, 500}) EXPECT_FALSE(gemma->is_end_of_turn(id)) << id;
}

TEST(TextGolden, SmolLM2LacksBytesAndSaysSo) {
  const Tokenizer* tokenizer = real_tokenizer("smollm2");
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<std::string> unusual = tokenizer->impl().vocabulary->unusual();
  ASSERT_EQ(unusual.size(), 1U);
  EXPECT_NE(unusual[0].find("21 of the 256 bytes (04 06 13 14 16 1d c0 c1 f1 f2 f5 "), std::string::npos) << unusual[0];
}

TEST(TextGolden, TinyModels) {
  int models = 0;
  for (const auto& entry : fs::directory_iterator(kGolden / "tiny")) {
    if (entry.path().extension() != ".gguf") continue;
    ++models;
    const auto tokenizer = Tokenizer::open(entry.path().string());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
    const json::value golden = json::parse(read(fs::path(entry.path()).replace_extension(".json")));
    const json::object& row = golden.as_object().at("tokenize").as_object();
    const std::vector<TokenId> ids = encode(*tokenizer, row);
    EXPECT_EQ(ids, ids_of(row.at("ids"))) << entry.path();
    EXPECT_EQ(tokenizer->decode(ids).value(), std::string_view(row.at("text").as_string()));
  }
  EXPECT_EQ(models, 16);
}

TEST(TextGolden, FilesThatAreNoModelsAreRefused) {
  EXPECT_EQ(Tokenizer::open("/nonexistent/model.gguf").error().code, ErrorCode::not_found);
  EXPECT_FALSE(Tokenizer::open((kGolden / "README.md").string()).ok());
}

}  // namespace
}  // namespace dalsegno
