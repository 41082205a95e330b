// The bits themselves: SHA-256 of the logits of each tiny model that runs, per K/V format and precision of activations.
// A change of any of them is a change of the numerics contract: it needs a new kNumericsVersion and a new baseline
// file, which this test prints when the two differ.
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "dalsegno/diagnostics.hpp"

namespace dalsegno {
namespace {

boost::json::value read_json(const std::string& path) {
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return boost::json::parse(text);
}

constexpr const char* kModels[] = {
    "llama-gqa",  "llama-rope3",  "llama-f16",  "llama-bf16", "llama-q8_0", "llama-q4_0", "llama-q4_1",   "llama-q5_0",
    "llama-q5_1", "llama-iq4_nl", "llama-q4_k", "llama-q5_k", "llama-q6_k", "qwen2-bias", "qwen3-qknorm", "gemma3-swa"};

std::string hash(const std::string& model, const KvOptions& kv, int activation_bits) {
  const std::string stem = std::string(DALSEGNO_GOLDEN) + "/tiny/" + model;
  std::vector<TokenId> ids;
  const boost::json::value golden = read_json(stem + ".json");
  for (const boost::json::value& id : golden.at("ids").as_array()) {
    ids.push_back(static_cast<TokenId>(id.as_int64()));
  }
  EngineOptions options;
  options.model_path = stem + ".gguf";
  options.kv = kv;
  options.activation_bits = activation_bits;
  options.memory.bytes = 256ULL << 20;
  const auto engine = Engine::open(options);
  EXPECT_TRUE(engine.ok());
  ScoreOptions wanted;
  wanted.hash = true;
  wanted.nll = false;
  return score(**engine, ids, wanted).value().hash;
}

TEST(Baseline, TheLogitsOfTheTinyModelsHaveTheBitsOfThisNumericsVersion) {
  boost::json::object hashes;
  for (const char* model : kModels) {
    const KvOptions f32{.format = KvFormat::f32};
    hashes[model] = {{"bf16", hash(model, {}, 8)},
                     {"f32", hash(model, f32, 8)},
                     {"bf16, activations 16", hash(model, {}, 16)},
                     {"f32, activations 16", hash(model, f32, 16)},
                     {"kv 8", hash(model, {.format = KvFormat::q8}, 8)},
                     {"kv 4", hash(model, {.format = KvFormat::q4}, 8)},
                     {"kv 4, group 32", hash(model, {.format = KvFormat::q4, .group_size = 32}, 8)},
                     {"kv 8, start 20", hash(model, {.format = KvFormat::q8, .start = 20}, 8)},
                     {"kv 4, start 32, max kv 50, keep 5",
                      hash(model, {.format = KvFormat::q4, .start = 32, .max_size = 50, .keep = 5}, 8)},
                     {"max kv 50, keep 5", hash(model, {.max_size = 50, .keep = 5}, 8)}};
  }
  const boost::json::value now = {{"numerics_version", kNumericsVersion}, {"logits_sha256", hashes}};
  const boost::json::value baseline = read_json(std::string(DALSEGNO_SOURCE) + "/tests/baseline.json");
  EXPECT_EQ(now, baseline) << boost::json::serialize(now);
}

}  // namespace
}  // namespace dalsegno
