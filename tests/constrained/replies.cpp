// constrained_replies MODEL: reads one JSON object a line, {"prompt": a user's message, "schema": a JSON schema as
// text, "texts": [...]}, or instead of a schema "tool_calls": a definition as text (tools.hpp), and writes one for
// each: {"refused": why} or {"text": the reply that follows the schema, "finish":
// ..., of tool calls "calls": [[name, arguments], ...] or "malformed": why, "accepted": [of each of the texts whether
// the schema's grammar does]}.

#include <fmt/format.h>

#include <boost/json.hpp>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dalsegno/batch.hpp"
#include "dalsegno/tools.hpp"
#include "runtime/local_engine.hpp"
#include "text/grammar.hpp"

namespace dalsegno {
namespace {

namespace json = boost::json;

// The schemas of the suite may wish for long replies; the model, left alone, for longer ones.
constexpr int kMostTokens = 300;
constexpr float kEager = 6;
constexpr std::size_t kAtOnce = 32;

Result<bool> accepts(const Matcher& beginning, std::string_view text, const Tokenizer& tokenizer) {
  DALSEGNO_ASSIGN(ids, tokenizer.encode(text));
  DALSEGNO_ASSIGN(matcher, beginning.clone());
  if (!ids.empty() && !matcher.consume(ids).ok()) return false;
  return matcher.accepts();
}

Constraint constraint_of(const json::object& asked) {
  if (const json::value* calls = asked.if_contains("tool_calls"))
    return {Constraint::Kind::tool_calls, std::string(calls->as_string())};
  return Constraint::json_schema(std::string(asked.at("schema").as_string()));
}

void note_calls(const std::string& definition, json::object& answer) {
  const json::value parsed = json::parse(definition);
  const std::string_view style = parsed.at("style").as_string();
  for (const ToolCallStyle one : {ToolCallStyle::hermes, ToolCallStyle::llama3, ToolCallStyle::json}) {
    if (style != name(one)) continue;
    const auto calls = parse_tool_calls(one, std::string_view(answer.at("text").as_string()));
    if (!calls.ok()) answer["malformed"] = calls.error().message;
    json::array all;
    if (calls.ok()) {
      for (const ToolCall& call : *calls) all.push_back({call.name, json::parse(call.arguments_json)});
    }
    answer["calls"] = std::move(all);
  }
}

Result<json::array> accepted(const Grammars& grammars, const json::object& asked, const Tokenizer& tokenizer) {
  json::array answers;
  DALSEGNO_ASSIGN(matcher, grammars.compile(constraint_of(asked)));
  for (const json::value& text : asked.at("texts").as_array()) {
    const json::string& chars = text.as_string();
    DALSEGNO_ASSIGN(yes, accepts(matcher, {chars.data(), chars.size()}, tokenizer));
    answers.push_back(yes);
  }
  return answers;
}

Result<std::vector<TokenId>> prompt_of(const json::object& asked, const Tokenizer& tokenizer) {
  const json::array messages{json::object{{"role", "user"}, {"content", asked.at("prompt")}}};
  DALSEGNO_ASSIGN(prompt, tokenizer.render(json::serialize(messages), true));
  return tokenizer.encode(prompt, {.special = true});
}

// Of tokens with which a value or the whole may end: replies that are cut off prove little.
std::vector<std::pair<TokenId, float>> eager_to_end(const Vocabulary& vocabulary) {
  std::vector<std::pair<TokenId, float>> bias;
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    const std::string_view bytes = vocabulary.bytes(id);
    const bool ends = !bytes.empty() && std::string_view("\"]}").find(bytes.front()) != std::string_view::npos;
    if (ends || vocabulary.is_end_of_turn(id)) bias.emplace_back(id, kEager);
  }
  return bias;
}

class Replies {
 public:
  Replies(LocalEngine& engine, const Grammars& grammars)
      : engine_(engine), grammars_(grammars), batch_(engine), bias_(eager_to_end(engine.vocabulary())) {}

  Result<void> ask(const json::object& asked) {
    const std::size_t place = answers_.size();
    answers_.emplace_back();
    DALSEGNO_ASSIGN(prompt, prompt_of(asked, engine_.tokenizer()));
    BatchRequest request{.prompt = std::move(prompt), .keep_cache = false};
    request.options.constraint = constraint_of(asked);
    if (asked.contains("tool_calls")) definitions_[place] = request.options.constraint->text;
    request.options.max_tokens = kMostTokens;
    request.options.sampling.temperature = 0.8F;
    request.options.sampling.seed = place;
    request.options.sampling.logit_bias = bias_;
    std::vector<BatchRequest> requests;
    requests.push_back(std::move(request));
    auto uid = batch_.insert(std::move(requests));
    if (!uid.ok()) {
      answers_[place]["refused"] = uid.error().message;
      return {};
    }
    running_[uid.value().front()] = place;
    DALSEGNO_ASSIGN(texts, accepted(grammars_, asked, engine_.tokenizer()));
    answers_[place] = {{"text", ""}, {"accepted", std::move(texts)}};
    while (running_.size() >= kAtOnce) hear();
    return {};
  }

  const std::vector<json::object>& rest() {
    while (!running_.empty()) hear();
    return answers_;
  }

 private:
  void hear() {
    for (const BatchResponse& response : batch_.next()) {
      json::object& answer = answers_[running_.at(response.uid)];
      answer["text"].as_string() += response.text;
      if (!response.finish_reason) continue;
      answer["finish"] = name(*response.finish_reason);
      if (response.error) answer["error"] = response.error->message;
      if (const auto calls = definitions_.find(running_.at(response.uid)); calls != definitions_.end())
        note_calls(calls->second, answer);
      running_.erase(response.uid);
    }
  }

  LocalEngine& engine_;
  const Grammars& grammars_;
  BatchGenerator batch_;
  const std::vector<std::pair<TokenId, float>> bias_;
  std::map<std::uint64_t, std::size_t> running_;
  std::map<std::size_t, std::string> definitions_;  // of tool calls, by place
  std::vector<json::object> answers_;
};

Result<void> run(const char* model) {
  EngineOptions options;
  options.model_path = model;
  DALSEGNO_ASSIGN(engine, LocalEngine::open(options));
  DALSEGNO_ASSIGN(grammars, Grammars::create(engine->vocabulary()));
  Replies replies(*engine, *grammars);
  for (std::string line; std::getline(std::cin, line);) DALSEGNO_TRY(replies.ask(json::parse(line).as_object()));
  for (const json::object& answer : replies.rest()) fmt::print("{}\n", json::serialize(answer));
  return {};
}

}  // namespace
}  // namespace dalsegno

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  if (const auto done = dalsegno::run(argv[1]); !done.ok()) {
    fmt::print(stderr, "error: {}\n", done.error().message);
    return 1;
  }
  return 0;
}
