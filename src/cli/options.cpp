#include "cli/options.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <limits>

#include "cli/constraint_options.hpp"
#include "cli/models_folder.hpp"
#include "cli/terminal.hpp"

namespace dalsegno::cli {
namespace {

constexpr int kMostThreads = 256;
constexpr int kMostContext = 1 << 24;
constexpr int kMostTokens = 1 << 20;

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

bool is_code(KvFormat format) {
  return format == KvFormat::q8 || format == KvFormat::q4;
}

void read_memory(EngineOptions& engine, const std::string& text) {
  engine.memory.bytes = 0;
  engine.memory.preset = MemoryPreset::automatic;
  for (const MemoryPreset preset : {MemoryPreset::automatic, MemoryPreset::idle, MemoryPreset::unconstrained}) {
    if (lower(text) != name(preset)) continue;
    engine.memory.preset = preset;
    return;
  }
  engine.memory.bytes = parse_bytes(text).value_or(0);
  if (engine.memory.bytes == 0) {
    wrong_usage(
        fmt::format("--memory: '{}' is not a size; write 512MB, 2GiB, a number of bytes, automatic, idle or "
                    "unconstrained",
                    text));
  }
}

void read_idle_memory(EngineOptions& engine, const std::string& text) {
  engine.memory.idle_bytes = parse_bytes(text);
  if (engine.memory.idle_bytes) return;
  wrong_usage(fmt::format("--idle-memory: '{}' is not a size; write 0, 512MB, 2GiB or a number of bytes", text));
}

void read_kv(EngineOptions& engine, const std::string& text) {
  for (const KvFormat format : {KvFormat::bf16, KvFormat::f32, KvFormat::q8, KvFormat::q4}) {
    if (text != name(format)) continue;
    engine.kv.format = format;
    return;
  }
  wrong_usage(fmt::format("--kv: there is no format '{}'; use bf16, f32, 8 or 4", text));
}

void read_kv_group(EngineOptions& engine, const std::string& text) {
  for (const int size : {32, 64, 128}) {
    if (text != std::to_string(size)) continue;
    engine.kv.group_size = size;
    return;
  }
  wrong_usage(fmt::format("--kv-group must be 32, 64 or 128, not '{}'", text));
}

void read_activations(EngineOptions& engine, const std::string& text) {
  if (text != "8" && text != "16") wrong_usage(fmt::format("--activations must be 8 or 16, not '{}'", text));
  engine.activation_bits = text == "8" ? 8 : 16;
}

// What only some formats have means nothing to the others, so it is a mistake.
void check_kv(const CLI::App& app, const KvOptions& kv) {
  if (app.count("--kv-group") > 0 && !is_code(kv.format)) {
    wrong_usage(fmt::format("--kv-group is for --kv 8 or 4, not for {}", name(kv.format)));
  }
  if (app.count("--kv-start") > 0 && !is_code(kv.format)) {
    wrong_usage(fmt::format("--kv-start is for --kv 8 or 4, not for {}", name(kv.format)));
  }
  if (app.count("--keep") > 0 && kv.max_size == 0) wrong_usage("--keep is part of --max-kv: give both");
  if (kv.max_size > 0 && kv.keep >= kv.max_size) {
    wrong_usage(fmt::format("--keep {} leaves no room in --max-kv {} for the last tokens", kv.keep, kv.max_size));
  }
}

void read_biases(SamplingOptions& sampling, const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    const std::size_t sign = text.find('=');
    TokenId id = 0;
    float bias = -std::numeric_limits<float>::infinity();
    const std::string value = sign == std::string::npos ? std::string() : text.substr(sign + 1);
    if (!parse_number(text.substr(0, sign), id) || (value != "-inf" && !parse_number(value, bias))) {
      wrong_usage("--logit-bias takes a token's id and a number or -inf, such as 42=-1.5, not " + text);
    }
    sampling.logit_bias.emplace_back(id, bias);
  }
}

}  // namespace

void wrong_usage(const std::string& sentence) {
  throw CLI::ValidationError(sentence);
}

std::string utf8_only(const std::string& text) {
  const auto checked = check_utf8(text, "the text");
  return checked.ok() ? "" : checked.error().message;
}

std::string named(const std::string& file) {
  return file.empty() ? "the name is empty; give one" : "";
}

void refuse_number(const std::string& option, const std::string& text, const std::string& least,
                   const std::string& most, bool whole) {
  wrong_usage(fmt::format("{} must be a {} from {} to {}, not '{}'", option, whole ? "whole number" : "number", least,
                          most, text));
}

std::string shown(double value) {
  return fmt::format("{:g}", value);
}
std::string shown(std::int64_t value) {
  return fmt::format("{}", value);
}
std::string shown(std::uint64_t value) {
  return fmt::format("{}", value);
}

std::optional<std::uint64_t> parse_bytes(const std::string& text) {
  static constexpr std::array<std::pair<std::string_view, double>, 10> kUnits{{{"", 1},
                                                                               {"b", 1},
                                                                               {"kb", 1e3},
                                                                               {"mb", 1e6},
                                                                               {"gb", 1e9},
                                                                               {"tb", 1e12},
                                                                               {"kib", 0x1p10},
                                                                               {"mib", 0x1p20},
                                                                               {"gib", 0x1p30},
                                                                               {"tib", 0x1p40}}};
  const std::size_t end = std::min(text.find_first_not_of("0123456789."), text.size());
  const std::size_t unit_at = std::min(text.find_first_not_of(' ', end), text.size());
  const std::string unit = lower(text.substr(unit_at));
  double number = 0;
  if (!parse_number(text.substr(0, end), number)) return std::nullopt;
  for (const auto& [name, factor] : kUnits) {
    if (unit != name) continue;
    const double bytes = number * factor;
    if (bytes >= 0x1p63 || (bytes > 0 && bytes < 1)) return std::nullopt;
    return static_cast<std::uint64_t>(bytes);
  }
  return std::nullopt;
}

void add_common(CLI::App& app, CommonOptions& options, ModelUse use) {
  app.add_option("-m,--model", options.model, "a GGUF file, or the name of a model in the models folder")
      ->type_name("MODEL")
      ->required();
  app.add_flag("--json", options.json, "print JSON, one value per line");

  EngineOptions& engine = options.engine;
  const std::string runs = use == ModelUse::runs ? "Engine" : "";
  const std::string sizes = use == ModelUse::reads ? "" : "Engine";
  add_number(app, "--threads", engine.threads, 1, kMostThreads, "worker threads (default: one per core)")->group(runs);
  app.add_option_function<std::string>(
         "--memory", [&engine](const std::string& text) { read_memory(engine, text); },
         "budget of the whole process: 512MB, 2GiB, automatic (default), idle or unconstrained")
      ->type_name("SIZE")
      ->group(runs);
  app.add_option_function<std::string>(
         "--idle-memory", [&engine](const std::string& text) { read_idle_memory(engine, text); },
         "what stays in use while nothing runs; what is cached beyond it is given back; 0: all of it (default: by "
         "--memory)")
      ->type_name("SIZE")
      ->group(runs);
  add_number(app, "--context", engine.context, 1, kMostContext,
             "most tokens of a conversation (default: what the model was trained for)")
      ->group(sizes);
  app.add_option_function<std::string>(
         "--kv", [&engine](const std::string& text) { read_kv(engine, text); },
         "how keys and values are stored: bf16 (default), f32, or codes of 8 or 4 bits")
      ->type_name("FORMAT")
      ->group(sizes);
  app.add_option_function<std::string>(
         "--kv-group", [&engine](const std::string& text) { read_kv_group(engine, text); },
         "with --kv 8 or 4: how many values share a scale: 32, 64 (default) or 128")
      ->type_name("N")
      ->group(sizes);
  add_number(app, "--kv-start", engine.kv.start, 0, kMostContext,
             "with --kv 8 or 4: tokens before this one stay bf16; rounded up to a multiple of 16 (default: 0)")
      ->group(sizes);
  add_number(app, "--max-kv", engine.kv.max_size, 1, kMostContext,
             "attend to N tokens at most: the first of --keep and the last (default: all)")
      ->group(sizes);
  add_number(app, "--keep", engine.kv.keep, 0, kMostContext,
             "with --max-kv: first tokens that stay in sight (default: 0)")
      ->group(sizes);
  app.add_option_function<std::string>(
         "--activations", [&engine](const std::string& text) { read_activations(engine, text); },
         "bits of what quantised weights are multiplied by: 8 (default) or, nearer to the model, 16")
      ->type_name("BITS")
      ->group(sizes);
  app.add_option("--eviction", engine.eviction, "what makes room in the cache: value (default) or lru")
      ->check(CLI::IsMember({"value", "lru"}))
      ->type_name("POLICY")
      ->group(runs);
  app.parse_complete_callback([&app, &engine] { check_kv(app, engine.kv); });
}

void add_generation(CLI::App& app, GenerateOptions& options) {
  SamplingOptions& sampling = options.sampling;
  const std::string group = "Reply";
  add_number(app, "--max-tokens", options.max_tokens, 1, kMostTokens, "longest reply (default: 512)")->group(group);
  add_number(app, "--temperature", sampling.temperature, 0.0F, 1000.0F, "0: the likeliest token, always (default)")
      ->group(group);
  add_number(app, "--top-p", sampling.top_p, 1e-6F, 1.0F, "only the likeliest tokens that share this probability")
      ->group(group);
  add_number(app, "--top-k", sampling.top_k, 0, 1 << 30, "only the K likeliest tokens (default: 0, no limit)")
      ->group(group);
  add_number(app, "--min-p", sampling.min_p, 0.0F, 0.999999F, "only tokens this likely beside the likeliest")
      ->group(group);
  add_number(app, "--repeat-penalty", sampling.repeat_penalty, 0.01F, 100.0F,
             "make recent tokens less likely (default: 1, off)")
      ->group(group);
  add_number(app, "--repeat-last", sampling.repeat_last, 0, 1 << 30, "how many tokens are recent (default: 64)")
      ->group(group);
  add_number(app, "--typical-p", sampling.typical_p, 1e-6F, 1.0F,
             "only the tokens of this share whose surprise is nearest to the entropy")
      ->group(group);
  add_number(app, "--presence-penalty", sampling.presence_penalty, -100.0F, 100.0F,
             "less likely if the reply has the token already (default: 0)")
      ->group(group);
  add_number(app, "--frequency-penalty", sampling.frequency_penalty, -100.0F, 100.0F,
             "less likely for every time the reply has it (default: 0)")
      ->group(group);
  add_number(app, "--dry-multiplier", sampling.dry_multiplier, 0.0F, 100.0F,
             "make it less likely that a run of tokens goes on as before (default: 0, off)")
      ->group(group);
  add_number(app, "--dry-base", sampling.dry_base, 1.0F, 100.0F, "by this factor per token of the run (default: 1.75)")
      ->group(group);
  add_number(app, "--dry-allowed-length", sampling.dry_allowed_length, 0, 1 << 20,
             "runs up to this are free (default: 2)")
      ->group(group);
  add_number(app, "--dry-last", sampling.dry_last, 0, 1 << 30, "how many tokens runs are looked for in (default: 4096)")
      ->group(group);
  app.add_option_function<std::vector<std::string>>(
         "--logit-bias", [&sampling](const std::vector<std::string>& texts) { read_biases(sampling, texts); },
         "add VALUE to the logit of token ID, -inf forbids it; may be given several times")
      ->type_name("ID=VALUE")
      ->allow_extra_args(false)
      ->group(group);
  add_number(app, "--seed", sampling.seed, std::uint64_t{0}, std::numeric_limits<std::uint64_t>::max(),
             "of the draws (default: 0)")
      ->group(group);
  add_number(app, "--deadline", options.scheduling.deadline_seconds, 0.001, 1e6,
             "end each reply so many seconds after it was asked for, as far as it has come (default: none)")
      ->group(group);
  add_constraint(app, options);
  app.add_option("--stop", options.stop, "end the reply before this text; may be given several times")
      ->check(utf8_only)
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(group);
  app.add_flag_callback(
         "--no-reuse", [&options] { options.reuse = false; }, "neither read from nor add to the cache")
      ->group(group);
  app.add_option_function<std::string>(
         "--speculation",
         [&options](const std::string& text) {
           options.speculation = text == "off" ? Speculation::off : Speculation::automatic;
         },
         "guess the next tokens where that is faster: auto (default) or off; never changes the reply")
      ->check(CLI::IsMember({"auto", "off"}))
      ->type_name("WHEN")
      ->group(group);
  add_number(app, "--chunk", options.chunk, 1, kMostTokens, "most prompt tokens per step; never changes the reply")
      ->group(group);
}

void add_draft_model(CLI::App& app, CommonOptions& options) {
  app.add_option("--draft-model", options.draft_model,
                 "a small model with the same vocabulary, which guesses the next tokens where that is faster; never "
                 "changes the reply")
      ->check(named)
      ->type_name("MODEL")
      ->group("Engine");
}

Result<std::unique_ptr<Engine>> open_engine(const CommonOptions& options) {
  EngineOptions engine = options.engine;
  DALSEGNO_ASSIGN(path, find_model(options.model));
  engine.model_path = path;
  if (!options.draft_model.empty()) {
    auto draft = find_model(options.draft_model);
    if (!draft.ok()) return Error{draft.error().code, "the draft model: " + draft.error().message};
    engine.draft_model_path = std::move(draft).value();
  }
  return asked_for(Engine::open(engine));
}

// Only known once the model is.
void check_generation(const GenerateOptions& options, const Engine& engine) {
  const int vocabulary = engine.tokenizer().vocabulary_size();
  for (const auto& [id, bias] : options.sampling.logit_bias) {
    if (id >= 0 && id < vocabulary) continue;
    wrong_usage(fmt::format("--logit-bias {}: the model has tokens 0 to {}", id, vocabulary - 1));
  }
}

}  // namespace dalsegno::cli
