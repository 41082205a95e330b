#include "cli/line_editor.hpp"

#include <histedit.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>

namespace dalsegno::cli {
namespace {

constexpr int kHistoryLines = 1000;

}  // namespace

struct LineEditor::Impl {
  EditLine* line = nullptr;
  History* history = nullptr;
  std::string prompt;
  std::FILE* shown_on = nullptr;
  bool cleared = false;
};

namespace {

// The editor hands back only this pointer; what it points to outlives the editor.
void* client(EditLine* line) {
  void* data = nullptr;
  el_get(line, EL_CLIENTDATA, &data);
  return data;
}

}  // namespace

LineEditor::LineEditor(const std::string& prompt, bool on_error_stream) : impl_(std::make_unique<Impl>()) {
  // Characters are counted in the terminal's encoding; UTF-8 where the environment names none.
  if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  impl_->prompt = prompt;
  impl_->shown_on = on_error_stream ? stderr : stdout;
  impl_->line = el_init("dalsegno", stdin, impl_->shown_on, stderr);
  impl_->history = history_init();
  if (impl_->line == nullptr || impl_->history == nullptr) return;
  HistEvent event;
  history(impl_->history, &event, H_SETSIZE, kHistoryLines);
  history(impl_->history, &event, H_SETUNIQUE, 1);
  EditLine* line = impl_->line;
  el_set(line, EL_CLIENTDATA, static_cast<void*>(impl_.get()));
  el_set(
      line, EL_PROMPT, +[](EditLine* el) { return static_cast<Impl*>(client(el))->prompt.data(); });
  el_set(line, EL_EDITOR, "emacs");
  el_set(line, EL_HIST, &history, impl_->history);
  el_set(
      line, EL_ADDFN, "clear-line", "drop what was typed", +[](EditLine* el, int) -> unsigned char {
        static_cast<Impl*>(client(el))->cleared = true;
        return CC_NEWLINE;
      });
  // While a line is edited Ctrl-C is a character like any other; it stays a signal during a reply.
  el_set(line, EL_SETTY, "-d", "-isig", nullptr);
  el_set(line, EL_BIND, "^C", "clear-line", nullptr);
  el_set(line, EL_BIND, "^R", "em-inc-search-prev", nullptr);
}

LineEditor::~LineEditor() {
  if (impl_->line != nullptr) el_end(impl_->line);
  if (impl_->history != nullptr) history_end(impl_->history);
}

bool LineEditor::read(std::string& line) {
  if (impl_->line == nullptr || impl_->history == nullptr) return false;
  for (;;) {
    impl_->cleared = false;
    int length = 0;
    // Before the prompt is shown, so that a key pressed in answer to it is never taken for a signal.
    el_set(impl_->line, EL_PREP_TERM, 1);
    const char* text = el_gets(impl_->line, &length);
    if (impl_->cleared) {
      std::fputs("^C\n", impl_->shown_on);
      std::fflush(impl_->shown_on);
      continue;
    }
    if (text == nullptr || length <= 0) return false;
    line.assign(text, static_cast<std::size_t>(length));
    while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
    HistEvent event;
    if (!line.empty()) history(impl_->history, &event, H_ENTER, line.c_str());
    return true;
  }
}

}  // namespace dalsegno::cli
