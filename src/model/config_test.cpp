#include "model/config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "gguf/gguf_writer.hpp"

namespace dalsegno {
namespace {

using namespace testing;  // NOLINT(google-build-using-namespace)
using ::testing::HasSubstr;

Result<ModelConfig> config_of(const TestGguf& source) {
  const std::string bytes = source.bytes();
  DALSEGNO_ASSIGN(file, GgufFile::borrow(std::as_bytes(std::span(bytes)), "test.gguf"));
  return read_config(*file);
}

Result<ModelConfig> golden(const std::string& name) {
  DALSEGNO_ASSIGN(file, GgufFile::open(DALSEGNO_GOLDEN "/tiny/" + name + ".gguf"));
  return read_config(*file);
}

struct Refusal {
  const char* label;
  ErrorCode code;
  std::vector<std::string> words;
  std::function<void(TestGguf&)> change;
};

void expect_refused(const std::vector<Refusal>& refusals, const TinyModel& model = {}) {
  for (const Refusal& refusal : refusals) {
    TestGguf source = tiny_model(model);
    ASSERT_TRUE(config_of(source).ok()) << config_of(source).error().message;
    refusal.change(source);
    const auto config = config_of(source);
    ASSERT_FALSE(config.ok()) << refusal.label;
    EXPECT_EQ(config.error().code, refusal.code) << refusal.label << ": " << config.error().message;
    for (const std::string& word : refusal.words) EXPECT_THAT(config.error().message, HasSubstr(word)) << refusal.label;
  }
}

std::function<void(TestGguf&)> set(const std::string& key, const TestValue& value) {
  return [=](TestGguf& file) { file.set(key, value); };
}

TEST(Config, ReadsTheGoldenModels) {
  const auto gqa = golden("llama-gqa");
  ASSERT_TRUE(gqa.ok()) << gqa.error().message;
  EXPECT_EQ(gqa->architecture, "llama");
  EXPECT_EQ(gqa->layers, 2);
  EXPECT_EQ(gqa->hidden, 128);
  EXPECT_EQ(gqa->feed_forward, 64);
  EXPECT_EQ(gqa->heads, 4);
  EXPECT_EQ(gqa->kv_heads, 2);
  EXPECT_EQ(gqa->head_dim, 32);
  EXPECT_EQ(gqa->vocabulary, 264);
  EXPECT_EQ(gqa->context, 2048);
  EXPECT_EQ(gqa->norm_eps, 1e-5F);
  EXPECT_EQ(gqa->rope_dims, 32);
  EXPECT_EQ(gqa->rope_base, 10000.0F);
  EXPECT_FALSE(gqa->tied_output);
  const auto gemma = golden("gemma3-swa");
  ASSERT_TRUE(gemma.ok()) << gemma.error().message;
  EXPECT_EQ(gemma->sliding_window, 64);
  for (int layer = 0; layer < 8; ++layer) EXPECT_EQ(gemma->windowed(layer), layer != 5) << layer;
  EXPECT_EQ(gemma->windowed_layers(), 7);
  EXPECT_EQ(gqa->windowed_layers(), 0);
  EXPECT_EQ(gemma->rope_base, 1e6F);
  EXPECT_EQ(gemma->window_rope_base, 1e4F);
  EXPECT_EQ(gemma->attention_scale, 0.125F);
  EXPECT_EQ(gemma->rope_dims, 64);
  EXPECT_TRUE(gemma->tied_output);
  for (const char* name :
       {"llama-rope3", "qwen2-bias", "qwen3-qknorm", "llama-f16", "llama-bf16", "llama-q8_0", "llama-q4_0",
        "llama-q4_1", "llama-q5_0", "llama-q5_1", "llama-iq4_nl", "llama-q4_k", "llama-q5_k", "llama-q6_k"}) {
    const auto config = golden(name);
    EXPECT_TRUE(config.ok()) << config.error().message;
  }
}

TEST(Config, AbsentKeysHaveTheirDefaults) {
  TestGguf source = tiny_model({.heads = 2, .kv_heads = 2});
  for (const char* key : {"llama.attention.head_count_kv", "llama.attention.key_length", "llama.attention.value_length",
                          "llama.rope.freq_base", "general.name"}) {
    source.remove_key(key);
  }
  const auto config = config_of(source);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->rope_dims, 16);
  EXPECT_EQ(config->rope_base, 10000.0F);
  EXPECT_EQ(config->rope_position_scale, 1.0F);
  EXPECT_EQ(config->sliding_window, 0);
}

TEST(Config, CountsMayBeGivenPerLayerIfEqual) {
  TestGguf source = tiny_model();
  source.set("llama.attention.head_count_kv", numbers(GgufType::u32, std::vector<std::uint32_t>{1, 1}));
  const auto config = config_of(source);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->kv_heads, 1);
  expect_refused({
      {"differing",
       ErrorCode::unsupported,
       {"head_count_kv", "differs between layers"},
       set("llama.attention.head_count_kv", numbers(GgufType::u32, std::vector<std::uint32_t>{1, 2}))},
      {"too few",
       ErrorCode::corrupt,
       {"1 elements", "2 layers"},
       set("llama.attention.head_count_kv", numbers(GgufType::u32, std::vector<std::uint32_t>{1}))},
      {"of strings", ErrorCode::corrupt, {"head_count"}, set("llama.attention.head_count", texts({"1", "1"}))},
  });
}

TEST(Config, RopeScaling) {
  TestGguf source = tiny_model();
  source.set("llama.rope.scaling.type", text("linear"));
  source.set("llama.rope.scaling.factor", f32(4.0F));
  EXPECT_EQ(config_of(source)->rope_position_scale, 0.25F);
  source.set("llama.rope.scaling.type", text("none"));
  EXPECT_EQ(config_of(source)->rope_position_scale, 1.0F);
  source.set("llama.rope.scaling.type", text("yarn"));
  EXPECT_FALSE(config_of(source).ok());
  source.set("llama.rope.scaling.factor", f32(1.0F));
  EXPECT_EQ(config_of(source)->rope_position_scale, 1.0F);
  TestGguf old = tiny_model();
  old.set("llama.rope.scale_linear", f32(2.0F));
  EXPECT_EQ(config_of(old)->rope_position_scale, 0.5F);
  old.set("llama.rope.scale_linear", f32(0.0F));
  EXPECT_EQ(config_of(old)->rope_position_scale, 1.0F);
}

TEST(Config, RefusesOtherRope) {
  const float infinity = std::numeric_limits<float>::infinity();
  expect_refused({
      {"yarn", ErrorCode::unsupported, {"'yarn'", "linear"}, set("llama.rope.scaling.type", text("yarn"))},
      {"longrope", ErrorCode::unsupported, {"'longrope'"}, set("llama.rope.scaling.type", text("longrope"))},
      {"attention factor", ErrorCode::unsupported, {"attn_factor"}, set("llama.rope.scaling.attn_factor", f32(1.2F))},
      {"factor below 1", ErrorCode::corrupt, {"is 0.5"}, set("llama.rope.scaling.factor", f32(0.5F))},
      {"factor NaN", ErrorCode::corrupt, {"is nan"}, set("llama.rope.scaling.factor", f32(std::nanf("")))},
      {"base 0", ErrorCode::corrupt, {"freq_base"}, set("llama.rope.freq_base", f32(0.0F))},
      {"base infinite", ErrorCode::corrupt, {"is inf"}, set("llama.rope.freq_base", f32(infinity))},
      {"odd", ErrorCode::corrupt, {"even"}, set("llama.rope.dimension_count", u32(7))},
      {"more than a head", ErrorCode::corrupt, {"1 to 16"}, set("llama.rope.dimension_count", u32(18))},
  });
}

TEST(Config, RopeFrequencyDivisors) {
  const auto with = [](float value) {
    TestGguf source = tiny_model();
    source.add_tensor("rope_freqs.weight", TensorType::f32, {8});
    std::memcpy(source.tensor("rope_freqs.weight").data.data() + 4 * 3, &value, 4);
    for (std::size_t i = 0; i < 8; ++i) {
      if (i != 3) std::memcpy(source.tensor("rope_freqs.weight").data.data() + 4 * i, "\0\0\x80\x3f", 4);
    }
    return config_of(source);
  };
  EXPECT_TRUE(with(8.0F).ok());
  EXPECT_FALSE(with(0.0F).ok());
  EXPECT_FALSE(with(-1.0F).ok());
  EXPECT_FALSE(with(std::numeric_limits<float>::infinity()).ok());
  const auto nan = with(std::nanf(""));
  ASSERT_FALSE(nan.ok());
  EXPECT_THAT(nan.error().message, HasSubstr("element 3 of tensor 'rope_freqs.weight'"));
}

TEST(Config, ImpossibleSizes) {
  expect_refused({
      {"no layers", ErrorCode::corrupt, {"block_count", "is 0"}, set("llama.block_count", u32(0))},
      {"a million layers", ErrorCode::corrupt, {"1000000", "1024"}, set("llama.block_count", u32(1000000))},
      {"layers negative", ErrorCode::corrupt, {"is -3"}, set("llama.block_count", i32(-3))},
      {"layers 2^63", ErrorCode::corrupt, {"63 bits"}, set("llama.block_count", u64(std::uint64_t{1} << 63U))},
      {"more layers than tensors",
       ErrorCode::corrupt,
       {"blk.2.attn_norm.weight", "missing"},
       set("llama.block_count", u32(3))},
      {"hidden 2^31", ErrorCode::corrupt, {"embedding_length"}, set("llama.embedding_length", u32(1U << 31U))},
      {"no heads", ErrorCode::corrupt, {"head_count"}, set("llama.attention.head_count", u32(0))},
      {"3 heads on 2", ErrorCode::corrupt, {"head_count_kv"}, set("llama.attention.head_count_kv", u32(3))},
      {"context 0", ErrorCode::corrupt, {"context_length"}, set("llama.context_length", u32(0))},
      {"eps 0", ErrorCode::corrupt, {"epsilon"}, set("llama.attention.layer_norm_rms_epsilon", f32(0.0F))},
      {"eps negative", ErrorCode::corrupt, {"epsilon"}, set("llama.attention.layer_norm_rms_epsilon", f32(-1e-5F))},
      {"eps NaN", ErrorCode::corrupt, {"nan"}, set("llama.attention.layer_norm_rms_epsilon", f32(std::nanf("")))},
      {"huge heads", ErrorCode::corrupt, {"heads of"}, set("llama.attention.head_count", u32(1U << 20U))},
      {"head of another size", ErrorCode::unsupported, {"key_length"}, set("llama.attention.key_length", u32(32))},
      {"window negative", ErrorCode::corrupt, {"sliding_window"}, set("llama.attention.sliding_window", i32(-1))},
  });
}

TEST(Config, TheVocabularyIsOneSize) {
  expect_refused({
      {"key", ErrorCode::corrupt, {"vocab_size", "is 257", "expected 259"}, set("llama.vocab_size", u32(257))},
      {"tokens",
       ErrorCode::corrupt,
       {"tokenizer.ggml.tokens", "2 elements"},
       set("tokenizer.ggml.tokens", texts({"a", "b"}))},
      {"types",
       ErrorCode::corrupt,
       {"tokenizer.ggml.token_type", "has 1 elements"},
       set("tokenizer.ggml.token_type", numbers(GgufType::i32, std::vector<int>{1}))},
      {"scores",
       ErrorCode::corrupt,
       {"tokenizer.ggml.scores"},
       set("tokenizer.ggml.scores", numbers(GgufType::f32, std::vector<float>{1}))},
  });
}

class ConfigOf : public ::testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(EachArchitecture, ConfigOf, ::testing::Values("llama", "qwen2", "qwen3", "gemma3"));

TEST_P(ConfigOf, EveryTensorMustBeThereInItsShape) {
  const TestGguf whole = tiny_model({.architecture = GetParam()});
  ASSERT_TRUE(config_of(whole).ok()) << config_of(whole).error().message;
  for (const TestTensor& tensor : whole.tensors) {
    TestGguf without = whole;
    without.remove_tensor(tensor.name);
    const auto missing = config_of(without);
    ASSERT_FALSE(missing.ok()) << tensor.name;
    EXPECT_EQ(missing.error().code, ErrorCode::corrupt);
    EXPECT_THAT(missing.error().message, HasSubstr("'" + tensor.name + "' is missing"));
    TestGguf wider = whole;
    wider.remove_tensor(tensor.name);
    auto dims = tensor.dims;
    dims[0] *= 2;
    wider.add_tensor(tensor.name, TensorType{tensor.type}, dims);
    const auto reshaped = config_of(wider);
    ASSERT_FALSE(reshaped.ok()) << tensor.name;
    EXPECT_EQ(reshaped.error().code, ErrorCode::corrupt);
    EXPECT_THAT(reshaped.error().message, HasSubstr("'" + tensor.name + "' has the dimensions"));
  }
}

// A tensor that another architecture would use must not be ignored.
TEST(Config, ATensorOfAnotherArchitectureHasNoPlace) {
  const std::pair<const char*, const char*> strangers[] = {
      {"llama", "attn_q_norm.weight"}, {"qwen2", "attn_output.bias"},     {"qwen2", "attn_k_norm.weight"},
      {"qwen3", "attn_q.bias"},        {"qwen3", "post_ffw_norm.weight"}, {"gemma3", "attn_v.bias"},
  };
  for (const auto& [architecture, tensor] : strangers) {
    TestGguf source = tiny_model({.architecture = architecture, .hidden = 32, .heads = 2, .kv_heads = 2});
    ASSERT_TRUE(config_of(source).ok()) << config_of(source).error().message;
    source.add_tensor(std::string("blk.0.") + tensor, TensorType::f32, {32});
    const auto config = config_of(source);
    ASSERT_FALSE(config.ok()) << architecture << " " << tensor;
    EXPECT_EQ(config.error().code, ErrorCode::unsupported);
    EXPECT_THAT(config.error().message, HasSubstr("no place in architecture " + std::string(architecture)));
  }
}

TEST(Config, OptionalTensorsMustFitToo) {
  TestGguf source = tiny_model();
  source.add_tensor("output.weight", TensorType::q8_0, {32, 259});
  source.add_tensor("blk.1.attn_q.bias", TensorType::f32, {32});
  const auto config = config_of(source);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_FALSE(config->tied_output);
  const auto add = [](const std::string& name, TensorType type, const std::vector<std::uint64_t>& dims) {
    return [=](TestGguf& file) { file.add_tensor(name, type, dims); };
  };
  expect_refused({
      {"output",
       ErrorCode::corrupt,
       {"'output.weight'", "[32, 257]"},
       add("output.weight", TensorType::q8_0, {32, 257})},
      {"bias",
       ErrorCode::corrupt,
       {"'blk.0.attn_k.bias'", "[32]", "[16]"},
       add("blk.0.attn_k.bias", TensorType::f32, {32})},
      {"bias as F16", ErrorCode::unsupported, {"F16", "F32"}, add("blk.0.attn_q.bias", TensorType::f16, {32})},
      {"divisors", ErrorCode::corrupt, {"'rope_freqs.weight'", "[8]"}, add("rope_freqs.weight", TensorType::f32, {16})},
      {"a bias that is not computed",
       ErrorCode::unsupported,
       {"'blk.0.ffn_up.bias'", "no place"},
       add("blk.0.ffn_up.bias", TensorType::f32, {64})},
      {"a layer too many",
       ErrorCode::unsupported,
       {"'blk.2.attn_norm.weight'"},
       add("blk.2.attn_norm.weight", TensorType::f32, {32})},
  });
}

TEST(Config, WellFormedButBeyondThisVersion) {
  expect_refused({
      {"experts", ErrorCode::unsupported, {"8 experts"}, set("llama.expert_count", u32(8))},
      {"window", ErrorCode::unsupported, {"sliding_window"}, set("llama.attention.sliding_window", u32(64))},
      {"other architecture", ErrorCode::unsupported, {"'mamba'", "gemma3"}, set("general.architecture", text("mamba"))},
  });
  expect_refused({{"pattern by layer",
                   ErrorCode::unsupported,
                   {"pattern", "an array"},
                   set("gemma3.attention.sliding_window_pattern", numbers(GgufType::i32, std::vector<int>{1, 0}))},
                  {"pattern of nothing",
                   ErrorCode::corrupt,
                   {"pattern", "is 0"},
                   set("gemma3.attention.sliding_window_pattern", u32(0))},
                  {"window base", ErrorCode::corrupt, {"freq_base_swa"}, set("gemma3.rope.freq_base_swa", f32(0.5F))},
                  {"capped scores",
                   ErrorCode::unsupported,
                   {"attn_logit_softcapping"},
                   set("gemma3.attn_logit_softcapping", f32(50.0F))}},
                 {.architecture = "gemma3"});
  const auto odd = config_of(tiny_model({.type = TensorType::f32, .hidden = 24, .head_dim = 12}));
  ASSERT_FALSE(odd.ok());
  EXPECT_EQ(odd.error().code, ErrorCode::unsupported);
  EXPECT_THAT(odd.error().message, HasSubstr("multiple of 16"));
  EXPECT_TRUE(config_of(tiny_model({.architecture = "qwen3", .head_dim = 256})).ok());
  const auto wide = config_of(tiny_model({.architecture = "qwen3", .head_dim = 272}));
  ASSERT_FALSE(wide.ok());
  EXPECT_EQ(wide.error().code, ErrorCode::unsupported);
  EXPECT_THAT(wide.error().message, HasSubstr("272 elements"));
}

TEST(Config, GemmaSaysWhichLayersAreWindowed) {
  TestGguf source = tiny_model({.architecture = "gemma3", .layers = 7});
  const auto without = config_of(source);
  ASSERT_TRUE(without.ok()) << without.error().message;
  for (int layer = 0; layer < 7; ++layer) EXPECT_FALSE(without->windowed(layer));
  source.set("gemma3.attention.sliding_window", u32(32));
  source.set("gemma3.attention.sliding_window_pattern", u32(3));
  source.set("gemma3.rope.freq_base_swa", f32(5e5F));
  const auto config = config_of(source);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->sliding_window, 32);
  EXPECT_EQ(config->window_rope_base, 5e5F);
  for (int layer = 0; layer < 7; ++layer) EXPECT_EQ(config->windowed(layer), layer != 2 && layer != 5) << layer;
}

// 27B alone divides scores by the root of hidden / heads, and no key says so.
TEST(Config, GemmaScalesScoresByTheHeadExceptIn27B) {
  const TinyModel small{.architecture = "gemma3", .layers = 2, .hidden = 64, .head_dim = 16};
  EXPECT_EQ(config_of(tiny_model(small))->attention_scale, 0.25F);
  TinyModel large = small;
  large.layers = 62;
  EXPECT_EQ(config_of(tiny_model(large))->attention_scale, 1.0F / std::sqrt(32.0F));
}

TEST(Config, AWindowAsWideAsTheContextIsNone) {
  TestGguf source = tiny_model({.context = 256});
  source.set("llama.attention.sliding_window", u32(256));
  const auto config = config_of(source);
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->sliding_window, 0);
}

}  // namespace
}  // namespace dalsegno
