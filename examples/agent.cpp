// agent MODEL: the model may call two tools before it answers. Runs with any model whose chat template knows tools.

#include <cstdio>
#include <ctime>
#include <string>

#include "dalsegno/session.hpp"

namespace {

using dalsegno::Result;

Result<std::string> clock_tool(const std::string&) {
  const std::time_t now = std::time(nullptr);
  char text[32];
  std::strftime(text, sizeof text, "%H:%M UTC", std::gmtime(&now));
  return std::string(text);
}

// The session sees to it that calls are valid by the tool's schema: the text is there, and nothing else.
Result<std::string> length_tool(const std::string& arguments_json) {
  return std::to_string(arguments_json.size() - std::string(R"({"text":""})").size());
}

Result<void> show(const std::string& model) {
  dalsegno::EngineOptions options;
  options.model_path = model;
  DALSEGNO_ASSIGN(engine, dalsegno::Engine::open(options));
  dalsegno::SessionOptions with_tools{.instructions = "Use the tools where they help, then answer."};
  with_tools.tools.push_back({.name = "clock", .description = "The time of day.", .handler = clock_tool});
  with_tools.tools.push_back(
      {.name = "length",
       .description = "How many characters a text has.",
       .parameters_json = R"({"type":"object","properties":{"text":{"type":"string"}},"required":["text"],
                              "additionalProperties":false})",
       .handler = length_tool});
  DALSEGNO_ASSIGN(session, dalsegno::Session::create(*engine, std::move(with_tools)));

  // Ends when a reply calls nothing, after 8 rounds, or when the model repeats itself; it says which.
  DALSEGNO_ASSIGN(done, session.run_tools("What time is it?", {.max_tokens = 128}, 8));
  for (const dalsegno::ToolRun& run : done.runs) {
    std::printf("%s(%s) -> %s%s\n", run.call.name.c_str(), run.call.arguments_json.c_str(), run.result.c_str(),
                run.failed ? " (failed)" : "");
  }
  std::printf("%s\n[%s; rounds with tools: %d]\n", done.reply.text.c_str(), name(done.ended), done.rounds);
  for (const dalsegno::ReplyReport& report : session.reports()) {
    std::printf("[%d tokens in: %d reused, %d prefilled]\n", report.usage.prompt_tokens, report.usage.reused_tokens,
                report.usage.prefilled_tokens);
  }
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const Result<void> done = argc == 2 ? show(argv[1]) : dalsegno::Error{.message = "usage: agent MODEL.gguf"};
  if (done.ok()) return 0;
  std::fprintf(stderr, "error: %s\n", done.error().message.c_str());
  return 1;
}
