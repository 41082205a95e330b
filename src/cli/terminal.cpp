#include "cli/terminal.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>

namespace dalsegno::cli {
namespace {

constexpr auto kPatience = std::chrono::milliseconds(500);

int output_error = 0;  // errno of the first write that failed

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler sets it");
struct sigaction former_interrupt;

void note_interrupt(int) {
  interrupted = true;
}

void note_first_interrupt(int signal) {
  if (!interrupted.exchange(true)) return;
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

void leave_quietly(int) {
  _exit(0);
}

// How many bytes the UTF-8 character at the front of `text` takes; 0 if it is ill-formed.
std::size_t character_length(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool overlong = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xF0 && byte(1) < 0x90);
  const bool surrogate = first == 0xED && byte(1) > 0x9F;
  const bool beyond = first == 0xF4 && byte(1) > 0x8F;
  return overlong || surrogate || beyond ? 0 : length;
}

Error cannot_read(const std::string& what, int error) {
  return {error == ENOENT ? ErrorCode::not_found : ErrorCode::io,
          fmt::format("cannot read {}: {}", what, std::strerror(error))};
}

}  // namespace

Error too_much(const std::string& what) {
  return {ErrorCode::exhausted, fmt::format("{} holds more than {} MiB; give less text", what, kMostInput >> 20)};
}

bool say(std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  if (!written && output_error == 0) output_error = errno;
  return output_error == 0;
}

void note(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

Result<void> finish_output() {
  if (std::fflush(stdout) != 0 && output_error == 0) output_error = errno;
  if (output_error == 0) return {};
  return Error{ErrorCode::io, fmt::format("cannot write to standard output: {}", std::strerror(output_error))};
}

void end_when_reader_leaves() {
  std::signal(SIGPIPE, &leave_quietly);
}

bool input_is_terminal() {
  return isatty(STDIN_FILENO) == 1;
}
bool output_is_terminal() {
  return isatty(STDOUT_FILENO) == 1;
}
bool error_is_terminal() {
  return isatty(STDERR_FILENO) == 1;
}

std::string source_name(const std::string& path) {
  return path == "-" ? "standard input" : path;
}

Result<std::string> read_all(const std::string& path) {
  const bool is_input = path == "-";
  const auto close = [is_input](std::FILE* file) { return is_input ? 0 : std::fclose(file); };
  const std::unique_ptr<std::FILE, decltype(close)> file(is_input ? stdin : std::fopen(path.c_str(), "rb"), close);
  if (file == nullptr) return cannot_read(source_name(path), errno);
  std::string text;
  std::array<char, 1 << 16> buffer;
  // Less than asked for is the end. Reading on would ask a terminal for another one.
  for (std::size_t count = buffer.size(); count == buffer.size();) {
    count = std::fread(buffer.data(), 1, buffer.size(), file.get());
    text.append(buffer.data(), count);
    if (text.size() > kMostInput) return too_much(source_name(path));
  }
  if (std::ferror(file.get()) != 0) return cannot_read(source_name(path), errno);
  return text;
}

Result<void> check_input() {
  struct stat status {};
  if (fstat(STDIN_FILENO, &status) != 0) return cannot_read(source_name("-"), errno);
  if (S_ISDIR(status.st_mode)) return cannot_read(source_name("-"), EISDIR);
  if (std::ferror(stdin) != 0) return cannot_read(source_name("-"), errno);
  return {};
}

Result<void> check_utf8(std::string_view text, const std::string& what) {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = character_length(text.substr(at));
    if (length == 0) {
      return Error{
          ErrorCode::invalid_argument,
          fmt::format("{} is not valid UTF-8 at byte offset {}; convert it, for example with iconv", what, at)};
    }
    at += length;
  }
  return {};
}

std::string well_formed(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    const std::size_t length = character_length(text);
    result += length == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, length);
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return result;
}

std::string one_line(std::string_view text) {
  std::string result = well_formed(text);
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  return result;
}

Interruptible::Interruptible(bool insisting_ends) {
  forget();
  struct sigaction action = {};
  action.sa_handler = insisting_ends ? &note_first_interrupt : &note_interrupt;
  action.sa_flags = SA_RESTART;  // reading a line goes on
  sigaction(SIGINT, &action, &former_interrupt);
}

Interruptible::~Interruptible() {
  sigaction(SIGINT, &former_interrupt, nullptr);
}

bool Interruptible::requested() {
  return interrupted;
}

void Interruptible::forget() {
  interrupted = false;
}

PrefillProgress::PrefillProgress() : start_(std::chrono::steady_clock::now()), enabled_(error_is_terminal()) {}

void PrefillProgress::show(int done, int total) {
  if (!enabled_ || std::chrono::steady_clock::now() - start_ < kPatience) return;
  note(fmt::format("\rprefilling {}/{}", done, total));
  shown_ = true;
}

void PrefillProgress::erase() {
  if (!shown_) return;
  note("\r\033[K");
  shown_ = false;
}

GenerateCallbacks live_callbacks(bool print_text, PrefillProgress& progress) {
  GenerateCallbacks callbacks;
  callbacks.on_text = [print_text, &progress](std::string_view text) {
    progress.erase();
    return (!print_text || say(text)) && !Interruptible::requested();
  };
  callbacks.on_prefill = [&progress](int done, int total) {
    progress.show(done, total);
    return !Interruptible::requested();
  };
  return callbacks;
}

}  // namespace dalsegno::cli
