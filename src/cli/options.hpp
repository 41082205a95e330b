#pragma once

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "dalsegno/engine.hpp"

namespace dalsegno::cli {

// Ends with exit status 2 and this sentence: an option asks for something impossible.
[[noreturn]] void wrong_usage(const std::string& sentence);
// For calls whose arguments are all options or DALSEGNO_CPU: what they refuse is wrong usage.
template <class T>
[[nodiscard]] Result<T> asked_for(Result<T> result) {
  if (!result.ok() && result.error().code == ErrorCode::invalid_argument) wrong_usage(result.error().message);
  return result;
}

// For an option's check(): empty, or why this is no text for a model; why this is no name of a file.
[[nodiscard]] std::string utf8_only(const std::string& text);
[[nodiscard]] std::string named(const std::string& file);

// What every verb takes.
struct CommonOptions {
  std::string model;        // as given: a path or a name in the models folder
  std::string draft_model;  // the same; empty: none
  bool json = false;
  EngineOptions engine;  // the paths are filled by open_engine
};

// What the options mean to a verb: one that only reads the file takes, but does not show, the engine's.
enum class ModelUse : std::uint8_t { runs, reads, sizes };
void add_common(CLI::App& app, CommonOptions& options, ModelUse use);
void add_generation(CLI::App& app, GenerateOptions& options);
void add_draft_model(CLI::App& app, CommonOptions& options);

// Finds the models and loads them.
Result<std::unique_ptr<Engine>> open_engine(const CommonOptions& options);
// Wrong usage if the options name tokens that the model lacks.
void check_generation(const GenerateOptions& options, const Engine& engine);

// "512MB", "2GiB", "1.5 GB" or plain bytes; nothing where it is none of these or does not fit.
[[nodiscard]] std::optional<std::uint64_t> parse_bytes(const std::string& text);

template <class T>
[[nodiscard]] bool parse_number(const std::string& text, T& value) {
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ptr != end || text.empty()) return false;
  if constexpr (std::is_floating_point_v<T>) {
    // Too near to zero for T is zero, or as near as T comes; too large is infinite.
    if (result.ec == std::errc::result_out_of_range) value = static_cast<T>(std::strtod(text.c_str(), nullptr));
    return std::isfinite(value);
  }
  return result.ec == std::errc();
}

[[noreturn]] void refuse_number(const std::string& option, const std::string& text, const std::string& least,
                                const std::string& most, bool whole);
[[nodiscard]] std::string shown(double value);
[[nodiscard]] std::string shown(std::int64_t value);
[[nodiscard]] std::string shown(std::uint64_t value);

// An option whose value is a number from `least` to `most`.
template <class T>
CLI::Option* add_number(CLI::App& app, const std::string& name, T& target, T least, T most, const std::string& help) {
  using Wide = std::conditional_t<std::is_floating_point_v<T>, double,
                                  std::conditional_t<std::is_signed_v<T>, std::int64_t, std::uint64_t>>;
  const auto read = [&target, name, least, most](const std::string& text) {
    T value{};
    if (!parse_number(text, value) || value < least || value > most) {
      refuse_number(name, text, shown(Wide{least}), shown(Wide{most}), std::is_integral_v<T>);
    }
    target = value;
  };
  return app.add_option_function<std::string>(name, read, help)->type_name(std::is_integral_v<T> ? "N" : "X");
}

}  // namespace dalsegno::cli
