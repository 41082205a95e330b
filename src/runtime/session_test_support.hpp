#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/prompt_cache.hpp"
#include "dalsegno/session.hpp"
#include "gguf/gguf_writer.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno::testing {

inline constexpr TokenId kEndOfTurn = 257;  // </s>; a byte is its own id, "ab" is 258

inline constexpr const char* kPlainTemplate =
    "{% if tools %}<s>tools\nwithin <tool_call> tags: {{ tools | tojson }}</s>\n{% endif %}"
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}";
// Drops what earlier replies thought.
inline constexpr const char* kThinkingTemplate =
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}";

// An engine of a model made on the spot that talks by this template; none: has no template.
inline std::unique_ptr<Engine> open_chat_engine(const char* chat_template = kPlainTemplate) {
  TestGguf model = tiny_model({.context = 4096});
  if (chat_template != nullptr) model.set("tokenizer.chat_template", text(chat_template));
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("dalsegno-session-" + std::to_string(::getpid()) + ".gguf");
  std::ofstream(path, std::ios::binary) << model.bytes();
  EngineOptions options;
  options.model_path = path.string();
  options.threads = 2;
  options.memory = {.bytes = 256ULL << 20};
  auto engine = Engine::open(options);
  std::filesystem::remove(path);
  EXPECT_TRUE(engine.ok()) << (engine.ok() ? "" : engine.error().message);
  return engine.ok() ? std::move(engine).value() : nullptr;
}

// Makes the model say what a test wants: one byte a token, also where the tokenizer would merge some.
class Script {
 public:
  // The next reply.
  void say(std::string_view reply) {
    for (const char c : reply) ids_.push_back(static_cast<unsigned char>(c));
    ids_.push_back(kEndOfTurn);
  }
  [[nodiscard]] GenerateOptions options() {
    GenerateOptions options;
    options.logits_processor = [this](std::span<const TokenId>, std::span<float> logits) {
      std::fill(logits.begin(), logits.end(), -100.0F);
      const TokenId next = at_ < ids_.size() ? ids_[at_] : kEndOfTurn;
      ++at_;
      logits[static_cast<std::size_t>(next)] = 0;
    };
    return options;
  }
  // Whether all was said, and no more asked for.
  [[nodiscard]] bool is_done() const { return at_ == ids_.size(); }

 private:
  std::vector<TokenId> ids_;
  std::size_t at_ = 0;
};

inline Reply said(Result<Reply> reply) {
  EXPECT_TRUE(reply.ok()) << (reply.ok() ? "" : reply.error().message);
  return reply.ok() ? std::move(reply).value() : Reply{};
}

// One scripted turn.
inline Reply turn(Session& session, std::string_view question, std::string_view answer) {
  Script script;
  script.say(answer);
  Reply reply = said(session.respond(question, script.options()));
  EXPECT_EQ(reply.text, answer);
  return reply;
}

inline Session make_session(Engine& engine, SessionOptions options) {
  auto session = Session::create(engine, std::move(options));
  EXPECT_TRUE(session.ok()) << (session.ok() ? "" : session.error().message);
  return session.ok() ? std::move(session).value() : Session(engine);
}

}  // namespace dalsegno::testing
