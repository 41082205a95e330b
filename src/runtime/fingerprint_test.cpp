#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "gguf/gguf.hpp"
#include "runtime/fingerprint.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno {
namespace {

// Two models that differ in any number of their metadata that changes a logit must not share a block.
TEST(Fingerprint, DiffersWithEveryNumberThatChangesALogit) {
  const auto file = GgufFile::open(testing::tiny_model("gemma3-swa"));
  ASSERT_TRUE(file.ok());
  const auto config = read_config(**file);
  ASSERT_TRUE(config.ok());
  ThreadPool pool(2);
  const auto hash = [&](const ModelConfig& changed) { return fingerprint(**file, changed, pool).value(); };
  const auto sound = hash(*config);
  EXPECT_EQ(hash(*config), sound);
  const std::vector<std::pair<std::string, std::function<void(ModelConfig&)>>> changes = {
      {"architecture", [](ModelConfig& c) { c.architecture += "x"; }},
      {"layers", [](ModelConfig& c) { ++c.layers; }},
      {"hidden", [](ModelConfig& c) { ++c.hidden; }},
      {"feed_forward", [](ModelConfig& c) { ++c.feed_forward; }},
      {"heads", [](ModelConfig& c) { ++c.heads; }},
      {"kv_heads", [](ModelConfig& c) { ++c.kv_heads; }},
      {"head_dim", [](ModelConfig& c) { ++c.head_dim; }},
      {"vocabulary", [](ModelConfig& c) { ++c.vocabulary; }},
      {"norm_eps", [](ModelConfig& c) { c.norm_eps *= 2; }},
      {"rope_dims", [](ModelConfig& c) { --c.rope_dims; }},
      {"rope_base", [](ModelConfig& c) { c.rope_base *= 2; }},
      {"rope_position_scale", [](ModelConfig& c) { c.rope_position_scale *= 2; }},
      {"sliding_window", [](ModelConfig& c) { ++c.sliding_window; }},
      {"full_attention_every", [](ModelConfig& c) { ++c.full_attention_every; }},
      {"window_rope_base", [](ModelConfig& c) { c.window_rope_base *= 2; }},
      {"attention_scale", [](ModelConfig& c) { c.attention_scale *= 2; }},
  };
  for (const auto& [what, change] : changes) {
    ModelConfig changed = *config;
    change(changed);
    EXPECT_NE(hash(changed), sound) << what;
  }
}

}  // namespace
}  // namespace dalsegno
