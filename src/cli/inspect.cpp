#include <fmt/format.h>

#include <cmath>

#include "base/memory_budget.hpp"
#include "cli/json.hpp"
#include "cli/models_folder.hpp"
#include "cli/options.hpp"
#include "cli/terminal.hpp"
#include "cli/verbs.hpp"
#include "dalsegno/diagnostics.hpp"

namespace dalsegno::cli {
namespace {

namespace json = boost::json;

// The sizes of an architecture that is not understood are 0 where its file does not say them.
template <class T>
json::value or_null(T size) {
  return size == 0 ? json::value(nullptr) : json::value(size);
}

std::string or_unknown(int size) {
  return size == 0 ? "unknown" : fmt::format("{}", size);
}

std::string or_unknown(const std::string& text) {
  return text.empty() ? "unknown" : text;
}

// Whether the file was understood, so that no window means that there is none.
bool is_understood(const InspectReport& report) {
  return report.kv_bytes_per_token > 0;
}

json::object report_json(const InspectReport& report, KvFormat kv) {
  json::array types;
  for (const auto& type : report.tensor_types) {
    types.push_back(json::object{{"type", type.type}, {"count", type.count}, {"bytes", type.bytes}});
  }
  const auto if_understood = [&](int size) { return is_understood(report) ? json::value(size) : json::value(nullptr); };
  return {{"path", report.path},
          {"gguf_version", report.gguf_version},
          {"file_bytes", report.file_bytes},
          {"architecture", report.architecture},
          {"runnable", report.runnable},
          {"name", report.name},
          {"parameters", report.parameters},
          {"layers", or_null(report.layers)},
          {"hidden", or_null(report.hidden)},
          {"feed_forward", or_null(report.feed_forward)},
          {"heads", or_null(report.heads)},
          {"kv_heads", or_null(report.kv_heads)},
          {"head_dim", or_null(report.head_dim)},
          {"vocabulary", or_null(report.vocabulary)},
          {"context", or_null(report.context)},
          {"sliding_window", if_understood(report.sliding_window)},
          {"windowed_layers", if_understood(report.windowed_layers)},
          {"tensor_types", std::move(types)},
          {"kv", name(kv)},
          {"kv_start", report.kv_start},
          {"kv_bytes_per_token", or_null(report.kv_bytes_per_token)},
          {"at_context", or_null(report.at_context)},
          {"packed_weight_bytes", or_null(report.packed_weight_bytes)},
          {"memory_at_context", or_null(report.memory_at_context)},
          {"tokenizer_model", report.tokenizer_model},
          {"tokenizer_pre", report.tokenizer_pre},
          {"has_template", report.has_template},
          {"unusual", json::array(report.unusual.begin(), report.unusual.end())}};
}

void line(const char* label, const std::string& text) {
  say(fmt::format("{:<16}{}\n", label, one_line(text)));
}

std::string formats(const InspectReport& report, KvFormat kv) {
  if (report.kv_start == 0) return name(kv);
  if (report.kv_start < report.at_context) return fmt::format("{}, bf16 before token {}", name(kv), report.kv_start);
  return fmt::format("bf16; {} from token {} on is beyond the context of {}", name(kv), report.kv_start,
                     report.at_context);
}

// As --memory takes it, and no less than the bytes.
std::string rounded_up(std::uint64_t bytes) {
  constexpr double kMiB = 1 << 20;
  return fmt::format("{:.0f}MiB", std::ceil(static_cast<double>(bytes) / kMiB));
}

std::string shape(const InspectReport& report) {
  if (report.layers == 0 && report.hidden == 0 && report.heads == 0) return "unknown";
  return fmt::format("{} layers, hidden {}, feed-forward {}, {} heads on {} K/V heads of {}", or_unknown(report.layers),
                     or_unknown(report.hidden), or_unknown(report.feed_forward), or_unknown(report.heads),
                     or_unknown(report.kv_heads), or_unknown(report.head_dim));
}

void print_report(const InspectReport& report, KvFormat kv) {
  line("file",
       fmt::format("{} (GGUF version {}, {})", report.path, report.gguf_version, human_bytes(report.file_bytes)));
  line("model", report.name.empty() ? "unnamed" : report.name);
  line("architecture",
       fmt::format("{}{}", report.architecture, report.runnable ? "" : ", which this version cannot run"));
  line("parameters", fmt::format("{:.1f} million", static_cast<double>(report.parameters) * 1e-6));
  line("shape", shape(report));
  line("vocabulary",
       fmt::format("{} tokens, {} {}, {} chat template", or_unknown(report.vocabulary),
                   or_unknown(report.tokenizer_model), report.tokenizer_pre, report.has_template ? "with a" : "no"));
  if (report.windowed_layers > 0) {
    line("window",
         fmt::format("{} tokens in {} of the {} layers", report.sliding_window, report.windowed_layers, report.layers));
  }
  line("context", report.context == 0 ? "unknown" : fmt::format("{} tokens", report.context));
  for (const auto& type : report.tensor_types) {
    line(&type == &report.tensor_types.front() ? "tensors" : "",
         fmt::format("{:>5} {:<7}{:>12}", type.count, type.type, human_bytes(type.bytes)));
  }
  line("keys and values",
       is_understood(report)
           ? fmt::format("{} per token in {}", human_bytes(report.kv_bytes_per_token), formats(report, kv))
           : "unknown");
  if (report.runnable) {
    line("memory",
         fmt::format("--memory {} at least for a context of {} tokens, of which weights {}",
                     rounded_up(report.memory_at_context), report.at_context, human_bytes(report.packed_weight_bytes)));
  }
  for (const std::string& sentence : report.unusual) {
    line(&sentence == &report.unusual.front() ? "unusual" : "", sentence);
  }
}

Result<int> inspect_verb(const CommonOptions& options) {
  DALSEGNO_ASSIGN(path, find_model(options.model));
  const EngineOptions& engine = options.engine;
  DALSEGNO_ASSIGN(report, asked_for(inspect(path, engine.kv, engine.context, engine.activation_bits, engine.threads)));
  if (options.json) {
    say(dump(report_json(report, options.engine.kv.format)) + "\n");
  } else {
    print_report(report, options.engine.kv.format);
  }
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto* verb = app.add_subcommand("inspect", "Show what a GGUF file holds and the memory it needs");
  const auto options = std::make_shared<CommonOptions>();
  add_common(*verb, *options, ModelUse::sizes);
  verb->footer("Example:\n  dalsegno inspect -m smollm2 --context 4096");
  verb->callback([options, &action] { action = [options] { return inspect_verb(*options); }; });
}

}  // namespace dalsegno::cli
