// What constraints cost: compiling, a mask, a step of the grammar, and decoding with and without a JSON schema.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dalsegno/tools.hpp"
#include "runtime/local_engine.hpp"
#include "text/grammar.hpp"

namespace dalsegno {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string model;
  int threads = 0;
  int tokens = 200;
  int rounds = 7;
};

struct Named {
  const char* name;
  std::optional<Constraint> constraint{};
  bool free = false;  // it could end at any token
};

constexpr const char* kPerson =
    R"({"type":"object","properties":{"name":{"type":"string","maxLength":40},"age":{"type":"integer","minimum":0,
        "maximum":150},"email":{"type":"string","format":"email"},"tags":{"type":"array","items":{"enum":["red","green",
        "blue"]},"maxItems":3},"address":{"type":"object","properties":{"street":{"type":"string"},"postal_code":
        {"type":"string","pattern":"^[0-9]{5}$"}},"required":["street","postal_code"],"additionalProperties":false}},
        "required":["name","age","email","tags","address"],"additionalProperties":false})";

Named by(const char* name, std::string schema) {
  return {name, Constraint::json_schema(std::move(schema))};
}

Result<std::vector<Named>> forms() {
  const std::string person = kPerson;
  const auto people = [](const std::string& each, const std::string& more) {
    return R"({"type":"array","minItems":20,"items":)" + each + more + "}";
  };
  std::vector<Tool> tools;
  for (int i = 0; i < 8; ++i) tools.push_back({.name = fmt::format("person_{}", i), .parameters_json = person});
  DALSEGNO_ASSIGN(calls, tool_calls(ToolCallStyle::hermes, tools));
  return std::vector<Named>{
      {"no constraint", std::nullopt, true},
      {"8 tools, plain text", std::move(calls), true},
      by("text in a JSON string", R"({"type":"object","properties":{"text":{"type":"string","minLength":1000}},
                                         "required":["text"],"additionalProperties":false})"),
      by("people, any white space", people(person, "")),
      by("people, none", people(person, R"(,"x-guidance":{"whitespace_flexible":false})")),
      by("text by a pattern",
         R"({"type":"object","properties":{"text":{"type":"string","pattern":"^.{400,}$"}},
                                    "required":["text"],"additionalProperties":false})"),
      by("any JSON", R"({"type":"array","minItems":200})")};
}

double micros(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

double at(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[std::min(values.size() - 1, static_cast<std::size_t>(share * static_cast<double>(values.size())))];
}

// Along what the model says.
Result<void> masks(const Vocabulary& vocabulary, const Named& form, const std::vector<TokenId>& ids,
                   std::vector<double>& all) {
  DALSEGNO_ASSIGN(grammars, Grammars::create(vocabulary));
  const auto begin = Clock::now();
  DALSEGNO_ASSIGN(matcher, grammars->compile(*form.constraint));
  const double compiled = micros(Clock::now() - begin);
  std::vector<double> masks, steps;
  TokenMask allowed(vocabulary.size());
  for (const TokenId id : ids) {
    const auto start = Clock::now();
    DALSEGNO_TRY(matcher.mask(allowed));
    const auto known = Clock::now();
    if (!allowed.has(id)) return Error{ErrorCode::corrupt, "the mask lacks a token of the reply"};
    DALSEGNO_TRY(matcher.consume({&id, 1}));
    DALSEGNO_TRY(matcher.forced());
    masks.push_back(micros(known - start));
    steps.push_back(micros(Clock::now() - known));
  }
  all.insert(all.end(), masks.begin(), masks.end());
  fmt::print("  {:<24} compiled in {:6.2f} ms | mask {:6.1f} us, p99 {:7.1f} | step {:5.1f} us, p99 {:6.1f}\n",
             form.name, compiled / 1e3, at(masks, 0.5), at(masks, 0.99), at(steps, 0.5), at(steps, 0.99));
  return {};
}

Result<Reply> reply(LocalEngine& engine, const std::vector<TokenId>& prompt, const Options& options, const Named& form,
                    std::uint64_t seed) {
  GenerateOptions asked;
  asked.max_tokens = options.tokens;
  asked.sampling.temperature = 0.7F;
  asked.sampling.seed = seed;
  asked.speculation = Speculation::off;  // free text says the same twice in a round
  asked.constraint = form.constraint;
  if (form.free) {  // as long as the others
    for (TokenId id = 0; id < engine.vocabulary().size(); ++id) {
      if (engine.vocabulary().is_end_of_turn(id)) asked.sampling.logit_bias.emplace_back(id, -1e9F);
    }
  }
  return engine.generate(prompt, asked, {});
}

Result<void> run(const Options& options) {
  EngineOptions engine_options;
  engine_options.model_path = options.model;
  engine_options.threads = options.threads;
  DALSEGNO_ASSIGN(engine, LocalEngine::open(engine_options));
  DALSEGNO_ASSIGN(text,
                  engine->tokenizer().render(R"([{"role":"user","content":"Tell me about people, in JSON."}])", true));
  DALSEGNO_ASSIGN(prompt, engine->tokenizer().encode(text, {.special = true}));

  // In turns, so that what else the machine does hits all alike.
  DALSEGNO_ASSIGN(forms, dalsegno::forms());
  std::vector<std::vector<double>> speeds(forms.size());
  std::vector<std::vector<TokenId>> ids(forms.size());
  for (int round = 0; round <= options.rounds; ++round) {
    for (std::size_t i = 0; i < forms.size(); ++i) {
      DALSEGNO_ASSIGN(said, reply(*engine, prompt, options, forms[i], static_cast<std::uint64_t>(round)));
      if (round > 0) speeds[i].push_back(said.tokens_per_second);  // the first one compiles and warms up
      ids[i] = said.ids;
    }
  }
  fmt::print("grammar, {} tokens in the vocabulary\n", engine->vocabulary().size());
  std::vector<double> all;
  for (std::size_t i = 1; i < forms.size(); ++i) {
    DALSEGNO_TRY(masks(engine->vocabulary(), forms[i], ids[i], all));
  }
  fmt::print("  {:<24} {:>22} mask {:6.1f} us, p99 {:7.1f}\n", "all of them", "", at(all, 0.5), at(all, 0.99));
  fmt::print("decode of {} tokens, median of {} rounds in turns\n", options.tokens, options.rounds);
  const double free = at(speeds[0], 0.5);
  for (std::size_t i = 0; i < forms.size(); ++i) {
    const double speed = at(speeds[i], 0.5);
    fmt::print("  {:<24} {:6.1f} tokens/s, {:6.1f} to {:6.1f} | {:+.1f}%\n", forms[i].name, speed, at(speeds[i], 0),
               at(speeds[i], 1), 100 * (speed / free - 1));
  }
  return {};
}

}  // namespace
}  // namespace dalsegno

int main(int argc, char** argv) {
  CLI::App app{"Measures what a constraint costs: compiling, masks, and decoding beside the same without one."};
  dalsegno::Options options;
  app.add_option("model", options.model, "a GGUF file with a chat template")->required();
  app.add_option("--threads", options.threads, "default: one per core");
  app.add_option("--tokens", options.tokens, "of a reply (default: 200)");
  app.add_option("--rounds", options.rounds, "of all forms (default: 7)");
  CLI11_PARSE(app, argc, argv);
  if (const auto done = dalsegno::run(options); !done.ok()) {
    fmt::print(stderr, "error: {}\n", done.error().message);
    return 1;
  }
  return 0;
}
