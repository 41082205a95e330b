#include "cli/models_folder.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <vector>

namespace dalsegno::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kDeepest = 4;             // folders below the models folder that are looked into
constexpr std::size_t kMostNamed = 12;  // models named in an error

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Every GGUF file below `folder`, in the order of their names.
std::vector<fs::path> models_in(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, fs::directory_options::skip_permission_denied, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (entry.depth() >= kDeepest) entry.disable_recursion_pending();
    std::error_code unreadable;
    if (lower(entry->path().extension().string()) == ".gguf" && entry->is_regular_file(unreadable)) {
      found.push_back(entry->path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string names_of(const std::vector<fs::path>& models) {
  std::vector<std::string> names;
  for (std::size_t i = 0; i < std::min(models.size(), kMostNamed); ++i) names.push_back(models[i].filename().string());
  if (models.size() > kMostNamed) names.push_back(fmt::format("and {} more", models.size() - kMostNamed));
  return fmt::format("{}", fmt::join(names, ", "));
}

// The models whose name is `name`; where there are none, those whose name begins with it.
std::vector<fs::path> matching(const std::vector<fs::path>& models, const std::string& name) {
  const std::string wanted = lower(name);
  std::vector<fs::path> exact;
  std::vector<fs::path> begins;
  for (const fs::path& model : models) {
    const std::string file = lower(model.filename().string());
    if (file == wanted || file == wanted + ".gguf") exact.push_back(model);
    if (file.starts_with(wanted)) begins.push_back(model);
  }
  return exact.empty() ? begins : exact;
}

Error is_folder(const std::string& name) {
  const auto inside = models_in(name);
  return {ErrorCode::invalid_argument,
          fmt::format("{} is a folder, not a GGUF file; {}", name,
                      inside.empty() ? "give the path of a file" : "give one of its files: " + names_of(inside))};
}

Error is_missing(const std::string& name, const std::vector<fs::path>& models) {
  if (models_folder().empty()) {
    return {ErrorCode::not_found,
            fmt::format("there is no model '{}': no file of that path, and no models folder, as HOME is not set; set "
                        "HOME, or DALSEGNO_MODELS to the folder your models are in",
                        name)};
  }
  return {ErrorCode::not_found,
          fmt::format("there is no model '{}': no file of that path, and the models folder {} holds {}; `make models` "
                      "gets the models",
                      name, models_folder(), models.empty() ? "no model" : "only " + names_of(models))};
}

}  // namespace

std::string models_folder() {
  if (std::string folder = environment("DALSEGNO_MODELS"); !folder.empty()) return folder;
  std::string data = environment("XDG_DATA_HOME");
  const std::string home = environment("HOME");
  if (data.empty() && !home.empty()) data = home + "/.local/share";
  return data.empty() ? "" : data + "/dalsegno/models";
}

Result<std::string> find_model(const std::string& name) {
  std::error_code error;
  const fs::file_status status = fs::status(name, error);
  const bool exists = !error && fs::exists(status);
  if (exists && !fs::is_directory(status)) return name;

  const bool is_path = name.empty() || name.find('/') != std::string::npos || name == "." || name == "..";
  const auto models = models_in(models_folder());
  const auto matches = is_path ? std::vector<fs::path>() : matching(models, name);
  if (matches.size() == 1) return matches[0].string();
  if (exists) return is_folder(name);
  if (matches.empty()) return is_missing(name, models);
  return Error{ErrorCode::invalid_argument, fmt::format("'{}' could be several models of the models folder {}: {}",
                                                        name, models_folder(), names_of(matches))};
}

}  // namespace dalsegno::cli
