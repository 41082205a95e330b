#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "dalsegno/diagnostics.hpp"
#include "dalsegno/tokenizer.hpp"
#include "gguf/gguf.hpp"
#include "gguf/printable.hpp"
#include "model/config.hpp"
#include "model/kv_layout.hpp"
#include "model/registry.hpp"
#include "runtime/opening.hpp"
#include "runtime/tokenizer_impl.hpp"
#include "tensor/kv_view.hpp"
#include "tensor/packing.hpp"

namespace dalsegno {
namespace {

// Beyond this no count of tokens means anything, and sizes in bytes still fit 64 bits.
constexpr int kMaxContext = 1 << 27;

std::uint64_t elements(const GgufTensor& tensor) {
  std::uint64_t product = 1;
  for (const std::uint64_t size : tensor.dims) product *= size;
  return product;
}

void describe_tensors(const GgufFile& file, InspectReport& report) {
  for (const GgufTensor& tensor : file.tensors()) {
    report.parameters += elements(tensor);
    const std::string_view type = traits(tensor.type).name;
    auto& rows = report.tensor_types;
    auto row = std::find_if(rows.begin(), rows.end(), [&](const TensorTypeCount& r) { return r.type == type; });
    if (row == rows.end()) row = rows.insert(rows.end(), {std::string(type), 0, 0});
    ++row->count;
    row->bytes += tensor.bytes;
  }
  std::stable_sort(report.tensor_types.begin(), report.tensor_types.end(),
                   [](const TensorTypeCount& a, const TensorTypeCount& b) { return a.bytes > b.bytes; });
}

// A string of the file, or "" where it is missing or something else.
std::string text_or_empty(const GgufFile& file, std::string_view key) {
  const Result<std::string> text = file.string_or(key, "");
  return text ? printable(*text) : std::string();
}

// Sizes of an architecture that is not understood: as far as the usual keys exist.
void describe_unknown(const GgufFile& file, const std::string& architecture, InspectReport& report) {
  const std::pair<const char*, int*> sizes[] = {
      {"block_count", &report.layers},
      {"embedding_length", &report.hidden},
      {"feed_forward_length", &report.feed_forward},
      {"attention.head_count", &report.heads},
      {"attention.head_count_kv", &report.kv_heads},
      {"attention.key_length", &report.head_dim},
      {"vocab_size", &report.vocabulary},
      {"context_length", &report.context},
  };
  for (const auto& [name, target] : sizes) {
    const Result<std::int64_t> value = file.integer(fmt::format("{}.{}", architecture, name));
    if (value && *value >= 0 && *value <= kMaxContext) *target = static_cast<int>(*value);
  }
  if (report.vocabulary == 0) {
    const auto tokens = file.array_length("tokenizer.ggml.tokens").value_or(0);
    if (tokens <= kMaxContext) report.vocabulary = static_cast<int>(tokens);
  }
}

void describe_sizes(const ModelConfig& config, InspectReport& report) {
  report.layers = config.layers;
  report.hidden = config.hidden;
  report.feed_forward = config.feed_forward;
  report.heads = config.heads;
  report.kv_heads = config.kv_heads;
  report.head_dim = config.head_dim;
  report.vocabulary = config.vocabulary;
  report.context = config.context;
  report.windowed_layers = config.windowed_layers();
  report.sliding_window = report.windowed_layers > 0 ? config.sliding_window : 0;
}

Result<void> describe_memory(const GgufFile& file, const ModelConfig& config, const EngineOptions& options,
                             InspectReport& report) {
  DALSEGNO_ASSIGN(kv, kv_options(config, options.kv));
  report.kv_start = kv.start;
  if (kv.start >= report.at_context) kv = {.max_size = kv.max_size, .keep = kv.keep};  // no token becomes codes
  report.kv_bytes_per_token = kv_layout(config, kv).block_bytes() / kBlockTokens;
  if (!report.runnable) return {};
  const Result<MemoryNeeds> needs = memory_needs(file, config, options, report.at_context);
  if (!needs.ok() && needs.error().code != ErrorCode::unsupported) return needs.error();
  if (!needs.ok()) {
    report.runnable = false;
    report.unusual.push_back(needs.error().message);
    return {};
  }
  report.packed_weight_bytes = packed_weight_bytes(file);
  report.memory_at_context = needs->total();
  return {};
}

// A model that is well-formed but beyond this version is described; a damaged one is an error.
Result<void> describe_model(const GgufFile& file, const EngineOptions& options, InspectReport& report) {
  DALSEGNO_ASSIGN(architecture, file.string("general.architecture"));
  report.architecture = printable(architecture);
  const Result<ModelConfig> config = read_config(file);
  if (!config && config.error().code != ErrorCode::unsupported) return config.error();
  if (config) {
    describe_sizes(*config, report);
  } else {
    describe_unknown(file, architecture, report);
    if (config_supported(architecture)) report.unusual.push_back(config.error().message);
  }
  report.at_context = options.context == 0 ? report.context : options.context;
  report.runnable = config && runnable(architecture);
  if (!config) return {};
  DALSEGNO_TRY(check_context(options, *config));
  return describe_memory(file, *config, options, report);
}

Result<void> describe_tokenizer(const GgufFile& file, InspectReport& report) {
  report.tokenizer_model = text_or_empty(file, "tokenizer.ggml.model");
  report.tokenizer_pre = text_or_empty(file, "tokenizer.ggml.pre");
  report.has_template = file.has("tokenizer.chat_template");
  const Result<Tokenizer> tokenizer = Tokenizer::open(file.path());
  if (!tokenizer) {
    if (tokenizer.error().code == ErrorCode::corrupt && config_supported(report.architecture)) return tokenizer.error();
    report.unusual.push_back(tokenizer.error().message);
    return {};
  }
  for (std::string& sentence : tokenizer->impl().vocabulary->unusual()) report.unusual.push_back(std::move(sentence));
  return {};
}

}  // namespace

Result<InspectReport> inspect(const std::string& model_path, const KvOptions& kv, int context, int activation_bits,
                              int threads) {
  if (context < 0 || context > kMaxContext) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("a context of {} tokens was asked for, expected 0 (the model's own) to {}", context, kMaxContext)};
  }
  DALSEGNO_ASSIGN(file, GgufFile::open(model_path));
  InspectReport report;
  report.path = model_path;
  report.gguf_version = file->version();
  report.file_bytes = file->file_bytes();
  report.name = text_or_empty(*file, "general.name");
  describe_tensors(*file, report);
  EngineOptions options;
  options.model_path = model_path;
  options.kv = kv;
  options.context = context;
  options.activation_bits = activation_bits;
  options.threads = threads;
  DALSEGNO_TRY(describe_model(*file, options, report));
  DALSEGNO_TRY(describe_tokenizer(*file, report));
  return report;
}

}  // namespace dalsegno
