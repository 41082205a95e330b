#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/tokenizer.hpp"

namespace dalsegno::cli {

// What a model is asked, as `run` and `explain` take it from their options.
struct QuestionOptions {
  std::string prompt, system, messages;  // empty: not given
  bool has_prompt = false;
  bool has_messages = false;
  bool raw = false;
};

// What one reply answers: text for the model as it is, or the JSON of a conversation for its template.
struct Question {
  std::string text;
  bool raw = false;
  std::string where{};     // "line 2 of FILE", where there are several
  std::size_t parted = 0;  // the first message, from 1, whose content is an array of parts; 0: none
};

// Adds --prompt, --system, --raw and --messages. The callback completes `options` and ends the program with wrong
// usage if they contradict each other; call it first in the verb's own.
[[nodiscard]] std::function<void()> add_questions(CLI::App& verb, QuestionOptions& options);
Result<std::vector<Question>> questions_of(const QuestionOptions& options);
// The error, which says in which of the questions.
[[nodiscard]] Error located(const Question& question, const Error& error);
Result<std::vector<TokenId>> ids_of(const Tokenizer& tokenizer, const Question& question);

}  // namespace dalsegno::cli
