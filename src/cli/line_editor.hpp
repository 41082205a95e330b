#pragma once

#include <memory>
#include <string>

namespace dalsegno::cli {

// Reads lines at a terminal with editing and the history of this process. Ctrl-C clears the line,
// Ctrl-D on an empty one ends the input.
class LineEditor {
 public:
  // on_error_stream: show the prompt on standard error, so that standard output holds the answers alone.
  LineEditor(const std::string& prompt, bool on_error_stream);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  // False at the end of the input. The line comes without its line break.
  bool read(std::string& line);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dalsegno::cli
