#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "dalsegno/engine.hpp"

namespace dalsegno::cli {

// Standard output, at once. False once it cannot be written to; main() reports that.
bool say(std::string_view text);
// Standard error; what cannot be written there is lost.
void note(std::string_view text);
// Errors: io, when something said was lost.
Result<void> finish_output();
// From now on the program ends quietly, with exit status 0, when a reader of its output goes away.
void end_when_reader_leaves();

[[nodiscard]] bool input_is_terminal();
[[nodiscard]] bool output_is_terminal();
[[nodiscard]] bool error_is_terminal();

// "standard input" for "-", else the path: how errors call what was read.
[[nodiscard]] std::string source_name(const std::string& path);
// Bytes read from one source at most: far more than any context holds.
inline constexpr std::size_t kMostInput = 64U << 20;
// The error of a source that holds more.
[[nodiscard]] Error too_much(const std::string& what);
// All of standard input ("-") or of a file, read until its end is met once. Errors: not_found, io, exhausted.
Result<std::string> read_all(const std::string& path);
// For what reads standard input by itself. Errors: io, if it is closed or a folder; if a read has failed.
Result<void> check_input();
// Errors: invalid_argument, if `text` is not UTF-8; `what` names it in the sentence.
Result<void> check_utf8(std::string_view text, const std::string& what);
// The same bytes, with U+FFFD for those that are not UTF-8.
[[nodiscard]] std::string well_formed(std::string_view text);
// One short line of what is left after control characters are taken out.
[[nodiscard]] std::string one_line(std::string_view text);

// While it lives, Ctrl-C is noted instead of ending the program; where `insisting_ends`, a second one
// ends it all the same. Threads: one at a time.
class Interruptible {
 public:
  explicit Interruptible(bool insisting_ends);
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
  [[nodiscard]] static bool requested();
  static void forget();
};

// The exit status of a program that Ctrl-C ended, by convention of the shells.
inline constexpr int kInterrupted = 130;

// A line of standard error that counts the prompt's tokens, only at a terminal and only where
// prefilling takes long enough to wonder.
class PrefillProgress {
 public:
  PrefillProgress();
  ~PrefillProgress() { erase(); }
  PrefillProgress(const PrefillProgress&) = delete;
  PrefillProgress& operator=(const PrefillProgress&) = delete;
  void show(int done, int total);
  void erase();

 private:
  std::chrono::steady_clock::time_point start_;
  bool enabled_;
  bool shown_ = false;
};

// Callbacks that print the text as it comes (if wanted), show progress and heed Ctrl-C.
// Requires: progress outlives them; an Interruptible is alive while they are used.
[[nodiscard]] GenerateCallbacks live_callbacks(bool print_text, PrefillProgress& progress);

}  // namespace dalsegno::cli
