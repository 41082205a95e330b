// Keyword arguments to options. The names are those of the C++ structs; dalsegno/options.py has their types.

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <span>

#include "bindings/python/python.hpp"

namespace dalsegno::python {
namespace {

// What was given, for a sentence: cut off where it is long.
std::string shown(nb::handle value) {
  constexpr std::size_t kMost = 80;
  std::string text = nb::cast<std::string>(nb::module_::import_("builtins").attr("ascii")(value));
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

template <class T>
T cast_option(const char* name, nb::handle value, const char* wanted) {
  T cast{};
  if (nb::try_cast(value, cast)) return cast;
  if (nb::isinstance<nb::str>(value) && std::is_same_v<T, std::string>) {
    raise(ErrorCode::invalid_argument, std::string(name) + ": " + shown(value) +
                                           " holds half of a surrogate pair, which is no character; leave it out");
  }
  refuse(name, wanted, value);
}

template <class T>
constexpr const char* range_of() {
  constexpr bool kIsLong = sizeof(T) == 8;
  static_assert(kIsLong || sizeof(T) == 4);
  if constexpr (std::is_unsigned_v<T>) {
    return kIsLong ? "a whole number from 0 to 2**64 - 1" : "a whole number from 0 to 2**32 - 1";
  }
  return kIsLong ? "a whole number from -2**63 to 2**63 - 1" : "a whole number from -2**31 to 2**31 - 1";
}
template <class T>
constexpr const char* wanted_of() {
  if constexpr (std::is_same_v<T, bool>) {
    return "True or False";
  } else if constexpr (std::is_integral_v<T>) {
    return range_of<T>();
  } else {
    return std::is_floating_point_v<T> ? "a number" : "text";
  }
}

struct Row {
  const char* name;
  void (*set)(Asked& asked, const char* name, nb::handle value);
};

// None: as if it were not given.
template <void (*Set)(Asked&, const char*, nb::handle)>
void set_unless_none(Asked& asked, const char* name, nb::handle value) {
  if (!value.is_none()) Set(asked, name, value);
}

// A field of GenerateOptions, or of one of its parts.
template <auto Field>
void set_field(Asked& asked, const char* name, nb::handle value) {
  auto& field = asked.options.*Field;
  using T = std::decay_t<decltype(field)>;
  field = cast_option<T>(name, value, wanted_of<T>());
}
template <auto Part, auto Field>
void set_part(Asked& asked, const char* name, nb::handle value) {
  auto& field = asked.options.*Part.*Field;
  using T = std::decay_t<decltype(field)>;
  field = cast_option<T>(name, value, wanted_of<T>());
}
template <auto Field>
constexpr auto kSampling = set_part<&GenerateOptions::sampling, Field>;

// One text stands for a list of it.
void set_stop(Asked& asked, const char* name, nb::handle value) {
  constexpr const char* kWanted = "text or a list of texts";
  asked.options.stop = nb::isinstance<nb::str>(value) ? std::vector{cast_option<std::string>(name, value, kWanted)}
                                                      : texts_of(name, value, kWanted);
}

void set_dry_breakers(Asked& asked, const char* name, nb::handle value) {
  asked.options.sampling.dry_breakers = texts_of(name, value, "a list of texts");
}

void set_logit_bias(Asked& asked, const char* name, nb::handle value) {
  constexpr const char* kWanted = "a dict or a list of (token id, number)";
  asked.options.sampling.logit_bias.clear();
  const nb::object pairs = nb::hasattr(value, "items") ? value.attr("items")() : nb::borrow(value);
  if (!nb::hasattr(pairs, "__iter__")) refuse(name, kWanted, value);
  for (const nb::handle pair : nb::iter(pairs)) {
    asked.options.sampling.logit_bias.push_back(cast_option<std::pair<TokenId, float>>(name, pair, kWanted));
  }
}

// What came back instead of logits, for a sentence.
std::string kind_of_array(nb::handle value) {
  const auto type = nb::cast<std::string>(value.type().attr("__name__"));
  if (!nb::hasattr(value, "shape") || !nb::hasattr(value, "dtype")) return "a value of type " + type;
  return "an array of shape " + shown(value.attr("shape")) + " and type " +
         nb::cast<std::string>(value.attr("dtype").attr("__str__")());
}

// Takes a row back. -inf, by which processors forbid a token, becomes the least float, which the engine's arithmetic
// can work with.
void take(std::span<const float> given, std::span<float> logits) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  bool any = false;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = given[i];
    if (std::isnan(logit) || logit == kInfinity) {
      raise(ErrorCode::invalid_argument, std::string("logits_processor: it left ") +
                                             (std::isnan(logit) ? "NaN" : "+inf") + " as the logit of token " +
                                             std::to_string(i) + "; finite numbers, or -inf to forbid it, are wanted");
    }
    any = any || logit != -kInfinity;
    logits[i] = std::max(logit, std::numeric_limits<float>::lowest());
  }
  if (!any) {
    raise(ErrorCode::invalid_argument,
          "logits_processor: it forbade every token, by -inf everywhere; one at least must be left");
  }
}

// The processor works on copies, which it may keep: the row itself is the engine's.
void process(const nb::object& callable, std::span<const TokenId> tokens, std::span<float> logits) {
  using Array = nb::ndarray<const float, nb::ndim<1>, nb::device::cpu, nb::c_contig>;
  const auto row = std::make_shared<std::vector<float>>(logits.begin(), logits.end());
  const nb::object returned =
      callable(array_of(std::make_shared<std::vector<TokenId>>(tokens.begin(), tokens.end())), array_of(row));
  if (returned.is_none()) {
    take(*row, logits);
    return;
  }
  Array given;
  if (!nb::try_cast(returned, given) || given.shape(0) != logits.size()) {
    raise(ErrorCode::invalid_argument, "logits_processor: it returned " + kind_of_array(returned) +
                                           "; an array of the vocabulary's size [" + std::to_string(logits.size()) +
                                           "] and type float32, or None for logits changed in place, is wanted");
  }
  take({given.data(), logits.size()}, logits);
}

void set_processor(Asked& asked, const char* /*name*/, nb::handle value) {
  if (value.is_none()) {
    asked.options.logits_processor = nullptr;
    asked.processor = nullptr;
    return;
  }
  if (PyCallable_Check(value.ptr()) == 0) refuse("logits_processor", "a callable (tokens, logits)", value);
  asked.processor = shared_object(nb::borrow(value));
  asked.options.logits_processor = [held = asked.processor, failure = asked.failure, engine = asked.engine](
                                       std::span<const TokenId> tokens, std::span<float> logits) {
    const Entry entry;
    if (!entry) throw std::runtime_error("the interpreter ends");
    const nb::gil_scoped_acquire acquired;
    const nb::object callable = *held;  // a garbage collection may empty `held` meanwhile
    if (!callable.is_valid()) throw std::runtime_error("the logits processor has been collected with its request");
    const WithinStep step(engine);
    try {
      process(callable, tokens, logits);
    } catch (nb::python_error& error) {
      failure->set(error);
      throw std::runtime_error("the logits processor raised an exception");
    } catch (const Raised& raised) {
      const nb::object exception = exception_of(raised.error);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
      failure->set(nb::python_error());
      throw;
    }
  };
}

Constraint::Kind kind_of(const std::string& kind) {
  if (kind == "json_schema") return Constraint::Kind::json_schema;
  if (kind == "regex") return Constraint::Kind::regex;
  if (kind == "lark") return Constraint::Kind::lark;
  if (kind == "choices") return Constraint::Kind::choices;
  if (kind == "tool_calls") return Constraint::Kind::tool_calls;
  throw nb::value_error(
      ("constraint: there is no kind '" + kind + "'; dalsegno.constraints makes all there are").c_str());
}

// The most bytes of a definition, as bridge/src/grammar.rs has them, which looks only once there is memory to compile
// it: beyond them it is not the memory that is wrong.
void check_size(const Constraint& constraint) {
  using Kind = Constraint::Kind;
  const std::size_t most = constraint.kind == Kind::regex     ? std::size_t{1} << 14
                           : constraint.kind == Kind::lark    ? std::size_t{1} << 16
                           : constraint.kind == Kind::choices ? std::size_t{1} << 18
                                                              : std::size_t{1} << 20;
  std::size_t size = constraint.text.size();
  for (const std::string& choice : constraint.choices) size += choice.size();
  if (size <= most) return;
  raise(ErrorCode::invalid_argument, "constraint: its definition has " + std::to_string(size) + " bytes, and " +
                                         std::to_string(most) + " are the limit; make it shorter");
}

void set_constraint(Asked& asked, const char* name, nb::handle value) {
  asked.options.constraint.reset();
  if (value.is_none()) return;
  constexpr const char* kWanted = "what a function of dalsegno.constraints returns";
  if (!nb::isinstance<nb::dict>(value) || !nb::cast<nb::dict>(value).contains("kind")) {
    refuse(name, kWanted, value);
  }
  Constraint constraint;
  for (const auto& [key, part] : nb::cast<nb::dict>(value)) {
    const auto field = cast_option<std::string>(name, key, kWanted);
    if (field == "kind") {
      constraint.kind = kind_of(cast_option<std::string>(name, part, kWanted));
    } else if (field == "text") {
      constraint.text = cast_option<std::string>("constraint text", part, "text");
    } else if (field == "choices") {
      constraint.choices = texts_of("constraint choices", part, "a list of texts");
    } else if (field == "continues") {
      constraint.continues = cast_option<int>(name, part, wanted_of<int>());
    } else {
      throw nb::type_error(("constraint: there is no part '" + field + "'").c_str());
    }
  }
  check_size(constraint);
  asked.options.constraint = std::move(constraint);
}

template <class E, std::size_t N>
E named(const char* option, nb::handle value, const std::array<E, N>& all) {
  const auto wanted = cast_option<std::string>(option, value, "a name");
  std::string known;
  for (const E one : all) {
    if (wanted == name(one)) return one;
    known += (known.empty() ? "" : ", ") + std::string(name(one));
  }
  throw nb::value_error((std::string(option) + ": '" + wanted + "' is none of " + known).c_str());
}

void set_tool_choice(Asked& asked, const char* option, nb::handle value) {
  asked.options.tool_choice.reset();
  if (!value.is_none()) asked.options.tool_choice = tool_choice_of(option, value);
}

void set_speculation(Asked& asked, const char* option, nb::handle value) {
  asked.options.speculation = named(option, value, std::array{Speculation::automatic, Speculation::off});
}

constexpr Row kRows[] = {
    {"max_tokens", set_unless_none<set_field<&GenerateOptions::max_tokens>>},
    {"stop", set_unless_none<set_stop>},
    {"constraint", set_constraint},
    {"tool_choice", set_tool_choice},
    {"logits_processor", set_processor},
    {"logprobs", set_field<&GenerateOptions::logprobs>},
    {"reuse", set_field<&GenerateOptions::reuse>},
    {"salt", set_field<&GenerateOptions::salt>},
    {"chunk", set_field<&GenerateOptions::chunk>},
    {"speculation", set_speculation},
    {"temperature", kSampling<&SamplingOptions::temperature>},
    {"top_p", kSampling<&SamplingOptions::top_p>},
    {"top_k", kSampling<&SamplingOptions::top_k>},
    {"min_p", kSampling<&SamplingOptions::min_p>},
    {"typical_p", kSampling<&SamplingOptions::typical_p>},
    {"repeat_penalty", kSampling<&SamplingOptions::repeat_penalty>},
    {"repeat_last", kSampling<&SamplingOptions::repeat_last>},
    {"presence_penalty", kSampling<&SamplingOptions::presence_penalty>},
    {"frequency_penalty", kSampling<&SamplingOptions::frequency_penalty>},
    {"dry_multiplier", kSampling<&SamplingOptions::dry_multiplier>},
    {"dry_base", kSampling<&SamplingOptions::dry_base>},
    {"dry_allowed_length", kSampling<&SamplingOptions::dry_allowed_length>},
    {"dry_last", kSampling<&SamplingOptions::dry_last>},
    {"dry_breakers", set_dry_breakers},
    {"logit_bias", set_logit_bias},
    {"seed", set_unless_none<kSampling<&SamplingOptions::seed>>},
    {"stream", kSampling<&SamplingOptions::stream>},
    {"priority", set_part<&GenerateOptions::retention, &Retention::priority>},
    {"ttl_seconds", set_part<&GenerateOptions::retention, &Retention::ttl_seconds>},
    {"urgency", set_part<&GenerateOptions::scheduling, &Scheduling::urgency>},
    {"deadline_seconds", set_part<&GenerateOptions::scheduling, &Scheduling::deadline_seconds>},
};

struct EngineRow {
  const char* name;
  void (*set)(EngineOptions& options, const char* name, nb::handle value);
};
template <auto Field>
void set_engine(EngineOptions& options, const char* name, nb::handle value) {
  auto& field = options.*Field;
  using T = std::decay_t<decltype(field)>;
  field = cast_option<T>(name, value, wanted_of<T>());
}

template <class Set>
void each_item(const char* option, nb::handle dict, Set&& set) {
  for (const auto& [key, value] : nb::cast<nb::dict>(dict)) {
    const auto name = cast_option<std::string>(option, key, "a dict whose keys are names");
    if (!set(name, value)) throw nb::type_error((std::string(option) + ": there is no '" + name + "' in it").c_str());
  }
}

// Formats of codes are numbers too.
nb::object format_of(const char* option, nb::handle value, const char* wanted) {
  if (nb::isinstance<nb::str>(value)) return nb::borrow(value);
  if (!nb::isinstance<nb::int_>(value)) refuse(option, wanted, value);
  return nb::str(value);
}

// "bf16", 8, or a dict of KvOptions.
void set_kv(EngineOptions& options, const char* option, nb::handle value) {
  constexpr std::array kFormats{KvFormat::bf16, KvFormat::f32, KvFormat::q8, KvFormat::q4};
  KvOptions& kv = options.kv;
  if (!nb::isinstance<nb::dict>(value)) {
    kv.format = named(option, format_of(option, value, "a format ('bf16', 'f32', 8 or 4) or a dict"), kFormats);
    return;
  }
  each_item(option, value, [&](const std::string& name, nb::handle item) {
    if (name == "format") {
      kv.format = named("kv format", format_of("kv format", item, "'bf16', 'f32', 8 or 4"), kFormats);
      return true;
    }
    int* const field = name == "group_size" ? &kv.group_size
                       : name == "start"    ? &kv.start
                       : name == "max_size" ? &kv.max_size
                       : name == "keep"     ? &kv.keep
                                            : nullptr;
    if (field != nullptr) *field = cast_option<int>(name.c_str(), item, wanted_of<int>());
    return field != nullptr;
  });
}

// Bytes, the name of a preset, or a dict of MemoryOptions.
void set_memory(EngineOptions& options, const char* option, nb::handle value) {
  constexpr std::array kPresets{MemoryPreset::automatic, MemoryPreset::idle, MemoryPreset::unconstrained};
  MemoryOptions& memory = options.memory;
  if (nb::isinstance<nb::str>(value)) {
    memory.preset = named(option, value, kPresets);
    return;
  }
  if (!nb::isinstance<nb::dict>(value)) {
    memory.bytes = cast_option<std::uint64_t>(option, value, "a number of bytes, the name of a preset or a dict");
    return;
  }
  each_item(option, value, [&](const std::string& name, nb::handle item) {
    if (name == "preset") {
      memory.preset = named(option, item, kPresets);
    } else if (name == "bytes") {
      memory.bytes = cast_option<std::uint64_t>("memory bytes", item, "a number of bytes");
    } else if (name == "idle_bytes") {
      memory.idle_bytes = cast_option<std::uint64_t>("memory idle_bytes", item, "a number of bytes");
    } else {
      return false;
    }
    return true;
  });
}

void set_quotas(EngineOptions& options, const char* option, nb::handle value) {
  constexpr const char* kWanted = "a dict of salts to bytes, each from 0 to 2**64 - 1,";
  options.quotas.clear();
  if (!nb::isinstance<nb::dict>(value)) refuse(option, kWanted, value);
  for (const auto& [salt, bytes] : nb::cast<nb::dict>(value)) {
    options.quotas[cast_option<std::string>(option, salt, kWanted)] =
        cast_option<std::uint64_t>(option, bytes, kWanted);
  }
}

void set_draft_model(EngineOptions& options, const char* name, nb::handle value) {
  options.draft_model_path = value.is_none() ? "" : path_of(value, name);
}

constexpr EngineRow kEngineRows[] = {
    {"kv", set_kv},
    {"activation_bits", set_engine<&EngineOptions::activation_bits>},
    {"context", set_engine<&EngineOptions::context>},
    {"memory", set_memory},
    {"audit_share", set_engine<&EngineOptions::audit_share>},
    {"quotas", set_quotas},
    {"quota_bytes", set_engine<&EngineOptions::quota_bytes>},
    {"step_ms", set_engine<&EngineOptions::step_ms>},
    {"threads", set_engine<&EngineOptions::threads>},
    {"eviction", set_engine<&EngineOptions::eviction>},
    {"draft_model", set_draft_model},
};

[[noreturn]] void unknown(const std::string& name) {
  throw nb::type_error(("there is no option '" + name + "'; dalsegno.options has them all").c_str());
}

}  // namespace

std::vector<std::string> texts_of(const char* name, nb::handle value, const char* wanted) {
  if (nb::isinstance<nb::str>(value) || nb::isinstance<nb::bytes>(value) || PySequence_Check(value.ptr()) == 0) {
    refuse(name, wanted, value);
  }
  std::vector<std::string> texts;
  for (const nb::handle item : nb::iter(value)) texts.push_back(cast_option<std::string>(name, item, wanted));
  return texts;
}

void refuse(const char* name, const char* wanted, nb::handle value) {
  throw nb::type_error((std::string(name) + ": " + wanted + " is wanted, not " + shown(value)).c_str());
}

ToolChoice tool_choice_of(const char* option, nb::handle value) {
  constexpr const char* kWanted = "'auto', 'required', 'none' or {'name': of a tool}";
  if (nb::isinstance<nb::dict>(value) && nb::len(value) == 1 && nb::cast<nb::dict>(value).contains("name")) {
    return ToolChoice::named(cast_option<std::string>(option, nb::cast<nb::dict>(value)["name"], kWanted));
  }
  const auto word = cast_option<std::string>(option, value, kWanted);
  if (word == "auto") return {};
  if (word == "required") return ToolChoice::required();
  if (word == "none") return ToolChoice::none();
  throw nb::value_error((std::string(option) + ": '" + word + "' is none of " + kWanted).c_str());
}

bool set_option(Asked& asked, const std::string& name, nb::handle value) {
  for (const Row& row : kRows) {
    if (name == row.name) {
      row.set(asked, row.name, value);
      return true;
    }
  }
  return false;
}

Asked asked(const Engine& engine, const nb::kwargs& kwargs) {
  Asked all{.engine = &engine};
  for (const auto& [key, value] : kwargs) {
    const auto name = nb::cast<std::string>(key);
    if (!set_option(all, name, value)) unknown(name);
  }
  return all;
}

EngineOptions engine_options(const std::string& model_path, const nb::kwargs& kwargs) {
  EngineOptions options;
  options.model_path = model_path;
  for (const auto& [key, value] : kwargs) {
    const auto wanted = nb::cast<std::string>(key);
    const auto* const row = std::ranges::find_if(kEngineRows, [&](const EngineRow& one) { return wanted == one.name; });
    if (row == std::end(kEngineRows)) unknown(wanted);
    row->set(options, row->name, value);
  }
  return options;
}

void bind_options(nb::module_& module) {
  module.def(
      "_option_names",
      [] {
        std::vector<std::string> generate;
        std::vector<std::string> engine;
        for (const Row& row : kRows) generate.emplace_back(row.name);
        for (const EngineRow& row : kEngineRows) engine.emplace_back(row.name);
        return std::pair(generate, engine);
      },
      "The names of all options: of requests, of engines.");
}

}  // namespace dalsegno::python
