#include <fmt/format.h>

#include <algorithm>
#include <exception>
#include <utility>

#include "runtime/local_engine.hpp"
#include "runtime/session_impl.hpp"
#include "runtime/tool_calls.hpp"

namespace dalsegno {
namespace {

std::string named(const std::vector<Tool>& tools) {
  std::string names;
  for (const Tool& tool : tools) names += (names.empty() ? "" : ", ") + tool.name;
  return names;
}

bool is_must(const ToolChoice& choice) {
  return choice.kind == ToolChoice::Kind::required || choice.kind == ToolChoice::Kind::named;
}

Result<std::string> handled(const Tool& tool, const std::string& arguments) {
  try {
    return tool.handler(arguments);
  } catch (const std::exception& thrown) {
    return Error{ErrorCode::invalid_argument, thrown.what()};
  } catch (...) {
    return Error{ErrorCode::invalid_argument, "the tool failed"};
  }
}

}  // namespace

const char* name(ToolsEnded ended) {
  switch (ended) {
    case ToolsEnded::answered:
      return "answered";
    case ToolsEnded::rounds:
      return "rounds";
    case ToolsEnded::repeated:
      return "repeated";
    case ToolsEnded::unfinished:
      break;
  }
  return "unfinished";
}

Result<std::optional<Constraint>> Session::Impl::constraint_of(const GenerateOptions& options) const {
  const ToolChoice& choice = options.tool_choice ? *options.tool_choice : state.tool_choice;
  const bool is_free = choice.kind == ToolChoice::Kind::automatic;
  if (state.tools == nullptr) {
    if (is_free) return options.constraint;
    return Error{ErrorCode::invalid_argument,
                 "tool_choice is for sessions with tools, and this one has none; give them to Session::create"};
  }
  if (options.constraint) {
    if (!options.tool_choice) return options.constraint;
    return Error{ErrorCode::invalid_argument,
                 "tool_choice and constraint cannot both say what a reply looks like; give one of them"};
  }
  if (state.strict) {
    DALSEGNO_ASSIGN(calls, tool_calls(state.call_style, *state.tools, choice));
    return std::optional<Constraint>(std::move(calls));
  }
  if (is_free) return std::optional<Constraint>();
  return Error{ErrorCode::invalid_argument,
               "a tool_choice other than automatic needs calls that are enforced; do not turn `strict` off"};
}

Result<void> Session::Impl::check_tools() const {
  DALSEGNO_ASSIGN(constraint, constraint_of({}));
  if (!constraint) return {};
  const Result<void> checked = dynamic_cast<LocalEngine&>(engine).check_constraint(*constraint);
  if (checked.ok() || checked.error().code != ErrorCode::invalid_argument) return checked;
  return Error{checked.error().code,
               checked.error().message + "; without `strict` the model may write calls as it likes"};
}

ToolRun Session::Impl::run(const ToolCall& call) const {
  const auto tool = std::find_if(state.tools->begin(), state.tools->end(),
                                 [&](const Tool& known) { return known.name == call.name; });
  if (tool == state.tools->end())
    return {call, fmt::format("error: there is no tool \"{}\"; there are: {}", call.name, named(*state.tools)), true};
  Result<std::string> result = handled(*tool, call.arguments_json);
  if (!result.ok()) return {call, "error: " + result.error().message, true};
  return {call, std::move(result).value(), false};
}

bool Session::Impl::run_calls(const Result<std::vector<ToolCall>>& calls, const std::string& text, ToolsReply& so_far,
                              std::set<std::string>& seen) {
  if (!calls.ok()) {
    // No tool's turn, but the model can mend what it wrote, unless it writes the same again.
    if (!seen.insert(text).second) return false;
    state.messages.push_back({"tool", "error: " + calls.error().message});
    return true;
  }
  for (const ToolCall& call : calls.value()) {
    if (!seen.insert(signature(call)).second) return false;
  }
  for (const ToolCall& call : calls.value()) {
    so_far.runs.push_back(run(call));
    state.messages.push_back({"tool", so_far.runs.back().result, call.name});
  }
  return true;
}

Result<ToolsReply> Session::run_tools(std::string_view user_text, const GenerateOptions& options, int most_rounds,
                                      const GenerateCallbacks& callbacks) {
  if (most_rounds < 0) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{} rounds of tool calls are not possible; choose 0 or more", most_rounds)};
  }
  Impl& self = *impl_;
  const Impl::Claim claim(self);
  DALSEGNO_TRY(claim.check());
  if (self.state.tools == nullptr)
    return Error{ErrorCode::invalid_argument, "the session has no tools; give them to Session::create"};
  for (const Tool& tool : *self.state.tools) {
    if (!tool.handler)
      return Error{ErrorCode::invalid_argument, fmt::format("the tool \"{}\" has no handler to run", tool.name)};
  }
  Impl::Rollback rollback(self.state);
  self.state.messages.push_back({"user", std::string(user_text)});
  ToolsReply out;
  std::set<std::string> seen;
  GenerateOptions now = options;
  for (;; ++out.rounds) {
    DALSEGNO_ASSIGN(reply, self.answer(now, callbacks));
    out.reply = std::move(reply);
    out.ended = ToolsEnded::unfinished;
    if (out.reply.finish_reason != FinishReason::stop) break;
    const auto calls = parse_tool_calls(self.state.call_style, out.reply.text);
    out.ended = ToolsEnded::answered;
    if (calls.ok() && calls->empty()) break;
    out.ended = ToolsEnded::rounds;
    if (out.rounds >= most_rounds) break;
    out.ended = ToolsEnded::repeated;
    if (!self.run_calls(calls, out.reply.text, out, seen)) break;
    // A model that must call would never answer.
    if (!now.constraint && is_must(now.tool_choice.value_or(self.state.tool_choice))) now.tool_choice = ToolChoice();
  }
  rollback.keep();
  return out;
}

}  // namespace dalsegno
