#include "model/config.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/printable.hpp"

namespace dalsegno {
namespace {

constexpr std::array<std::string_view, 4> kArchitectures{"llama", "qwen2", "qwen3", "gemma3"};

// Far above real models (the widest today have 53248), and small enough that the product of a width, a
// step's rows and a few parts fits an int.
constexpr std::int64_t kMaxWidth = std::int64_t{1} << 20;
constexpr std::int64_t kMaxLayers = 1024;
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 24;
// With a base of at least 1 and frequency divisors of at least 1/8, every RoPE angle stays below 2^30,
// the range of exact_sin.
constexpr std::int64_t kMaxContext = std::int64_t{1} << 27;
constexpr double kMinRopeDivisor = 0.125;
constexpr double kMinRopeBase = 1.0;
constexpr double kMaxRopeBase = 1e15;
constexpr double kMaxRopeFactor = 65536.0;
constexpr double kMinNormEps = 1e-20;
// One SIMD register of 16 f32 lanes along a head, and the longest head that attention has room for.
constexpr int kHeadDimStep = 16;
constexpr int kMostHeadDim = 256;
// Gemma 3, where the file does not say otherwise: every sixth layer looks back without limit.
constexpr std::int64_t kGemmaFullAttentionEvery = 6;
constexpr double kGemmaWindowBase = 10000.0;
// The one Gemma 3 whose scores are not scaled by its head_dim: 27B, and files do not say so.
constexpr int kGemma27Layers = 62;

// A tensor of each layer. outputs 0: a vector of `inputs` values.
struct LayerTensor {
  std::string_view name;
  int inputs;
  int outputs;
  bool required;
};

class ConfigReader {
 public:
  explicit ConfigReader(const GgufFile& file) : file_(file), seen_(file.tensors().size()) {}

  Result<ModelConfig> read() {
    DALSEGNO_TRY(read_architecture());
    DALSEGNO_TRY(read_sizes());
    DALSEGNO_TRY(read_heads());
    DALSEGNO_TRY(read_window());
    DALSEGNO_TRY(read_rope());
    DALSEGNO_TRY(refuse_unknown_arithmetic());
    DALSEGNO_TRY(read_vocabulary());
    DALSEGNO_TRY(check_layers());
    DALSEGNO_TRY(check_ends());
    DALSEGNO_TRY(check_rope_divisors());
    DALSEGNO_TRY(check_limits());
    return std::move(config_);
  }

 private:
  template <class... Args>
  Error error(ErrorCode code, fmt::format_string<Args...> format, Args&&... args) const {
    return {code, fmt::format("{}: {}", quoted_path(file_.path()), fmt::format(format, std::forward<Args>(args)...))};
  }
  template <class... Args>
  Error corrupt(fmt::format_string<Args...> format, Args&&... args) const {
    return error(ErrorCode::corrupt, format, std::forward<Args>(args)...);
  }
  template <class... Args>
  Error unsupported(fmt::format_string<Args...> format, Args&&... args) const {
    return error(ErrorCode::unsupported, format, std::forward<Args>(args)...);
  }
  [[nodiscard]] std::string key(std::string_view name) const {
    return fmt::format("{}.{}", config_.architecture, name);
  }

  Result<int> bounded(const std::string& full_key, std::int64_t value, std::int64_t most) const {
    if (value >= 1 && value <= most) return static_cast<int>(value);
    return corrupt("key '{}' is {}, expected 1 to {}", full_key, value, most);
  }
  Result<int> size(std::string_view name, std::int64_t most) const {
    DALSEGNO_ASSIGN(value, file_.integer(key(name)));
    return bounded(key(name), value, most);
  }
  Result<int> size_or(std::string_view name, std::int64_t fallback, std::int64_t most) const {
    DALSEGNO_ASSIGN(value, file_.integer_or(key(name), fallback));
    return bounded(key(name), value, most);
  }
  Result<int> uniform_size(std::string_view name, std::int64_t most) const;
  Result<float> number_or(std::string_view name, double fallback, double least, double most) const;

  Result<void> read_architecture();
  Result<void> read_sizes();
  Result<void> read_heads();
  Result<void> read_head_dim();
  Result<void> read_window();
  Result<void> read_rope();
  Result<void> read_rope_scaling();
  Result<void> refuse_unknown_arithmetic() const;
  Result<void> read_window_layout();
  Result<void> read_vocabulary();
  Result<void> check_tokens() const;
  Result<void> check_layers();
  Result<void> check_ends();
  Result<void> check_rope_divisors() const;
  Result<void> check_limits() const;
  [[nodiscard]] std::vector<LayerTensor> layer_tensors() const;
  // Marks the tensor as known. Result: whether it is there.
  Result<bool> check_tensor(const std::string& name, int inputs, int outputs, bool required);

  const GgufFile& file_;
  ModelConfig config_;
  std::vector<bool> seen_;  // tensors that have a place in the architecture
};

Result<int> ConfigReader::uniform_size(std::string_view name, std::int64_t most) const {
  const std::string full_key = key(name);
  const auto length = file_.array_length(full_key);
  if (!length) return size(name, most);
  if (*length != static_cast<std::uint64_t>(config_.layers)) {
    return corrupt("key '{}' has {} elements, expected one for each of {} layers", full_key, *length, config_.layers);
  }
  DALSEGNO_ASSIGN(values, file_.integers(full_key));
  const auto other = std::find_if(values.begin(), values.end(), [&](std::int64_t v) { return v != values[0]; });
  if (other != values.end()) {
    return unsupported("key '{}' differs between layers ({} and {}), expected one value for all", full_key, values[0],
                       *other);
  }
  return bounded(full_key, values[0], most);
}

Result<float> ConfigReader::number_or(std::string_view name, double fallback, double least, double most) const {
  DALSEGNO_ASSIGN(value, file_.number_or(key(name), fallback));
  // Written so that NaN fails.
  if (!(value >= least && value <= most)) {
    return corrupt("key '{}' is {}, expected a number from {} to {}", key(name), value, least, most);
  }
  return static_cast<float>(value);
}

Result<void> ConfigReader::read_architecture() {
  DALSEGNO_ASSIGN(architecture, file_.string("general.architecture"));
  if (!config_supported(architecture)) {
    return unsupported("the architecture is {}, expected one of {}", quoted_name(architecture),
                       fmt::join(kArchitectures, ", "));
  }
  config_.architecture = std::move(architecture);
  DALSEGNO_ASSIGN(name, file_.string_or("general.name", ""));
  config_.name = std::move(name);
  return {};
}

Result<void> ConfigReader::read_sizes() {
  DALSEGNO_ASSIGN(layers, size("block_count", kMaxLayers));
  config_.layers = layers;
  DALSEGNO_ASSIGN(hidden, size("embedding_length", kMaxWidth));
  config_.hidden = hidden;
  DALSEGNO_ASSIGN(feed_forward, uniform_size("feed_forward_length", kMaxWidth));
  config_.feed_forward = feed_forward;
  DALSEGNO_ASSIGN(context, size("context_length", kMaxContext));
  config_.context = context;
  if (!file_.has(key("attention.layer_norm_rms_epsilon"))) {
    return corrupt("key '{}' is missing, expected a small positive number", key("attention.layer_norm_rms_epsilon"));
  }
  DALSEGNO_ASSIGN(eps, number_or("attention.layer_norm_rms_epsilon", 0, kMinNormEps, 1));
  config_.norm_eps = eps;
  return {};
}

Result<void> ConfigReader::read_heads() {
  DALSEGNO_ASSIGN(heads, uniform_size("attention.head_count", kMaxWidth));
  config_.heads = heads;
  config_.kv_heads = heads;
  if (file_.has(key("attention.head_count_kv"))) {
    DALSEGNO_ASSIGN(kv_heads, uniform_size("attention.head_count_kv", kMaxWidth));
    config_.kv_heads = kv_heads;
  }
  if (heads % config_.kv_heads != 0) {
    return corrupt("key '{}' is {}, expected a divisor of the {} heads", key("attention.head_count_kv"),
                   config_.kv_heads, heads);
  }
  return read_head_dim();
}

Result<void> ConfigReader::read_head_dim() {
  const bool given = file_.has(key("attention.key_length")) && file_.has(key("attention.value_length"));
  if (!given && config_.hidden % config_.heads != 0) {
    return corrupt(
        "key '{}' is {}, expected a divisor of the embedding length {} where no key and value lengths are given",
        key("attention.head_count"), config_.heads, config_.hidden);
  }
  const int even_share = config_.hidden / config_.heads;
  DALSEGNO_ASSIGN(key_length, size_or("attention.key_length", even_share, kMaxWidth));
  DALSEGNO_ASSIGN(value_length, size_or("attention.value_length", even_share, kMaxWidth));
  if (key_length != value_length) {
    return unsupported("keys have {} elements per head and values {} (keys '{}' and '{}'), expected the same",
                       key_length, value_length, key("attention.key_length"), key("attention.value_length"));
  }
  if (std::int64_t{config_.heads} * key_length > kMaxWidth) {
    return corrupt("{} heads of {} elements, expected at most {} in all", config_.heads, key_length, kMaxWidth);
  }
  config_.head_dim = key_length;
  const bool by_hidden = config_.architecture == "gemma3" && config_.layers == kGemma27Layers;
  const float divisor = by_hidden ? static_cast<float>(config_.hidden) / static_cast<float>(config_.heads)
                                  : static_cast<float>(key_length);
  config_.attention_scale = 1.0F / std::sqrt(divisor);
  return {};
}

Result<void> ConfigReader::read_window() {
  DALSEGNO_ASSIGN(window, file_.integer_or(key("attention.sliding_window"), 0));
  if (window < 0 || window > std::numeric_limits<int>::max()) {
    return corrupt("key '{}' is {}, expected 0 (none) to {}", key("attention.sliding_window"), window,
                   std::numeric_limits<int>::max());
  }
  if (config_.architecture == "gemma3") {
    config_.sliding_window = static_cast<int>(window);
    return read_window_layout();
  }
  if (window != 0 && window < config_.context) {
    return unsupported("key '{}' is {}, expected none in architecture {}", key("attention.sliding_window"), window,
                       config_.architecture);
  }
  return {};
}

Result<void> ConfigReader::read_window_layout() {
  const std::string pattern_key = key("attention.sliding_window_pattern");
  if (file_.array_length(pattern_key)) {
    return unsupported("key '{}' is an array, expected n, where every n-th layer looks back without limit",
                       pattern_key);
  }
  DALSEGNO_ASSIGN(every, file_.integer_or(pattern_key, kGemmaFullAttentionEvery));
  DALSEGNO_ASSIGN(bounded_every, bounded(pattern_key, every, kMaxLayers));
  config_.full_attention_every = bounded_every;
  DALSEGNO_ASSIGN(base, number_or("rope.freq_base_swa", kGemmaWindowBase, kMinRopeBase, kMaxRopeBase));
  config_.window_rope_base = base;
  return {};
}

Result<void> ConfigReader::read_rope() {
  DALSEGNO_ASSIGN(dims, size_or("rope.dimension_count", config_.head_dim, config_.head_dim));
  if (dims % 2 != 0) {
    return corrupt("{} elements of a head are rotated (key '{}'), expected an even number", dims,
                   key("rope.dimension_count"));
  }
  config_.rope_dims = dims;
  DALSEGNO_ASSIGN(base, number_or("rope.freq_base", 10000.0, kMinRopeBase, kMaxRopeBase));
  config_.rope_base = base;
  return read_rope_scaling();
}

Result<void> ConfigReader::read_rope_scaling() {
  DALSEGNO_ASSIGN(type, file_.string_or(key("rope.scaling.type"), "linear"));
  const std::string factor_key =
      key(file_.has(key("rope.scaling.factor")) ? "rope.scaling.factor" : "rope.scale_linear");
  // Writers that have no factor may store 0.
  DALSEGNO_ASSIGN(stored, file_.number_or(factor_key, 0.0));
  const double factor = stored == 0.0 ? 1.0 : stored;
  if (!(factor >= 1.0 && factor <= kMaxRopeFactor)) {
    return corrupt("key '{}' is {}, expected a number from 1 to {}", factor_key, factor, kMaxRopeFactor);
  }
  // YaRN by a factor of 1 leaves every frequency as it is.
  if (type == "none" || (type == "yarn" && stored == 1.0)) return {};
  if (type != "linear") {
    return unsupported("the RoPE scaling type is {} (key '{}'), expected none or linear", quoted_name(type),
                       key("rope.scaling.type"));
  }
  config_.rope_position_scale = static_cast<float>(1.0 / factor);
  return {};
}

// Keys that would change the arithmetic, with the value that leaves it alone.
Result<void> ConfigReader::refuse_unknown_arithmetic() const {
  constexpr std::array<std::pair<std::string_view, double>, 3> kNeutral{{
      {"rope.scaling.attn_factor", 1.0},
      {"attn_logit_softcapping", 0.0},
      {"final_logit_softcapping", 0.0},
  }};
  DALSEGNO_ASSIGN(experts, file_.integer_or(key("expert_count"), 0));
  if (experts != 0) {
    return unsupported("the model has {} experts (key '{}'), expected a dense one", experts, key("expert_count"));
  }
  for (const auto& [name, neutral] : kNeutral) {
    DALSEGNO_ASSIGN(value, file_.number_or(key(name), neutral));
    if (value != neutral) return unsupported("key '{}' is {}, expected {} or none", key(name), value, neutral);
  }
  return {};
}

Result<void> ConfigReader::read_vocabulary() {
  const GgufTensor* embedding = file_.find_tensor("token_embd.weight");
  if (embedding == nullptr) return corrupt("tensor 'token_embd.weight' is missing, expected the embedding");
  if (embedding->dims.size() != 2) {
    return corrupt("tensor 'token_embd.weight' has {} dimensions, expected 2", embedding->dims.size());
  }
  if (embedding->dims[1] > static_cast<std::uint64_t>(kMaxVocabulary)) {
    return corrupt("tensor 'token_embd.weight' has {} rows, expected at most {}", embedding->dims[1], kMaxVocabulary);
  }
  config_.vocabulary = static_cast<int>(embedding->dims[1]);
  DALSEGNO_ASSIGN(stated, file_.integer_or(key("vocab_size"), config_.vocabulary));
  if (stated != config_.vocabulary) {
    return corrupt("key '{}' is {}, expected {}, the rows of tensor 'token_embd.weight'", key("vocab_size"), stated,
                   config_.vocabulary);
  }
  return check_tokens();
}

Result<void> ConfigReader::check_tokens() const {
  const auto vocabulary = static_cast<std::uint64_t>(config_.vocabulary);
  DALSEGNO_ASSIGN(tokens, file_.string_count("tokenizer.ggml.tokens"));
  if (tokens != vocabulary) {
    return corrupt("key 'tokenizer.ggml.tokens' has {} elements, expected {}, the rows of tensor 'token_embd.weight'",
                   tokens, vocabulary);
  }
  for (const char* name : {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}) {
    if (!file_.has(name)) continue;
    if (const auto length = file_.array_length(name); length != vocabulary) {
      return corrupt("key '{}' {}, expected an array of {}, one for each token", name,
                     length ? fmt::format("has {} elements", *length) : "is no array", vocabulary);
    }
  }
  return {};
}

std::vector<LayerTensor> ConfigReader::layer_tensors() const {
  const ModelConfig& c = config_;
  const int q = c.heads * c.head_dim;
  const int kv = c.kv_heads * c.head_dim;
  std::vector<LayerTensor> out{
      {"attn_norm.weight", c.hidden, 0, true},
      {"attn_q.weight", c.hidden, q, true},
      {"attn_k.weight", c.hidden, kv, true},
      {"attn_v.weight", c.hidden, kv, true},
      {"attn_output.weight", q, c.hidden, true},
      {"ffn_norm.weight", c.hidden, 0, true},
      {"ffn_gate.weight", c.hidden, c.feed_forward, true},
      {"ffn_up.weight", c.hidden, c.feed_forward, true},
      {"ffn_down.weight", c.feed_forward, c.hidden, true},
  };
  if (c.architecture == "llama" || c.architecture == "qwen2") {
    const bool required = c.architecture == "qwen2";
    out.push_back({"attn_q.bias", q, 0, required});
    out.push_back({"attn_k.bias", kv, 0, required});
    out.push_back({"attn_v.bias", kv, 0, required});
  }
  if (c.architecture == "llama") out.push_back({"attn_output.bias", c.hidden, 0, false});
  if (c.architecture == "qwen3" || c.architecture == "gemma3") {
    out.push_back({"attn_q_norm.weight", c.head_dim, 0, true});
    out.push_back({"attn_k_norm.weight", c.head_dim, 0, true});
  }
  if (c.architecture == "gemma3") {
    out.push_back({"post_attention_norm.weight", c.hidden, 0, true});
    out.push_back({"post_ffw_norm.weight", c.hidden, 0, true});
  }
  return out;
}

Result<bool> ConfigReader::check_tensor(const std::string& name, int inputs, int outputs, bool required) {
  std::vector<std::uint64_t> dims{static_cast<std::uint64_t>(inputs)};
  if (outputs != 0) dims.push_back(static_cast<std::uint64_t>(outputs));
  const GgufTensor* tensor = file_.find_tensor(name);
  if (tensor == nullptr) {
    if (!required) return false;
    return corrupt("tensor '{}' is missing, expected one of dimensions [{}]", name, fmt::join(dims, ", "));
  }
  if (tensor->dims != dims) {
    return corrupt("tensor '{}' has the dimensions [{}], expected [{}]", name, fmt::join(tensor->dims, ", "),
                   fmt::join(dims, ", "));
  }
  if (outputs == 0 && tensor->type != TensorType::f32) {
    return unsupported("tensor '{}' has type {}, expected F32 for a vector", name, traits(tensor->type).name);
  }
  seen_[static_cast<std::size_t>(tensor - file_.tensors().data())] = true;
  return true;
}

Result<void> ConfigReader::check_layers() {
  const std::vector<LayerTensor> expected = layer_tensors();
  for (int layer = 0; layer < config_.layers; ++layer) {
    for (const LayerTensor& tensor : expected) {
      const std::string name = fmt::format("blk.{}.{}", layer, tensor.name);
      DALSEGNO_TRY(check_tensor(name, tensor.inputs, tensor.outputs, tensor.required));
    }
  }
  return {};
}

Result<void> ConfigReader::check_ends() {
  DALSEGNO_TRY(check_tensor("token_embd.weight", config_.hidden, config_.vocabulary, true));
  DALSEGNO_TRY(check_tensor("output_norm.weight", config_.hidden, 0, true));
  DALSEGNO_ASSIGN(untied, check_tensor("output.weight", config_.hidden, config_.vocabulary, false));
  config_.tied_output = !untied;
  if (config_.architecture == "llama") {
    DALSEGNO_TRY(check_tensor("rope_freqs.weight", config_.rope_dims / 2, 0, false));
  }
  // A tensor left over takes part in a computation that is not the one above.
  const auto extra = std::find(seen_.begin(), seen_.end(), false);
  if (extra == seen_.end()) return {};
  const GgufTensor& tensor = file_.tensors()[static_cast<std::size_t>(extra - seen_.begin())];
  return unsupported("tensor {} has no place in architecture {}, expected only tensors that take part in it",
                     quoted_name(tensor.name), config_.architecture);
}

Result<void> ConfigReader::check_rope_divisors() const {
  const GgufTensor* tensor = file_.find_tensor("rope_freqs.weight");
  if (tensor == nullptr) return {};
  for (std::uint64_t i = 0; i < tensor->dims[0]; ++i) {
    float divisor = 0;
    std::memcpy(&divisor, tensor->data + i * sizeof divisor, sizeof divisor);
    if (!(divisor >= kMinRopeDivisor && divisor <= std::numeric_limits<float>::max())) {
      return corrupt("element {} of tensor 'rope_freqs.weight' is {}, expected a finite number from {}", i, divisor,
                     kMinRopeDivisor);
    }
  }
  return {};
}

Result<void> ConfigReader::check_limits() const {
  if (config_.head_dim % kHeadDimStep == 0 && config_.head_dim <= kMostHeadDim) return {};
  return unsupported("a head has {} elements, expected a multiple of {} up to {}", config_.head_dim, kHeadDimStep,
                     kMostHeadDim);
}

}  // namespace

bool config_supported(const std::string& architecture) {
  return std::find(kArchitectures.begin(), kArchitectures.end(), architecture) != kArchitectures.end();
}

Result<ModelConfig> read_config(const GgufFile& file) {
  return ConfigReader(file).read();
}

}  // namespace dalsegno
