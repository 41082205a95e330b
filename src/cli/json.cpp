#include "cli/json.hpp"

#include <fmt/format.h>

#include <cmath>
#include <iterator>

#include "cli/terminal.hpp"

namespace dalsegno::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t kMostNested = 64;

void append(std::string& out, const json::value& value) {
  if (const auto* object = value.if_object()) {
    const char* separator = "{";
    for (const auto& member : *object) {
      out += separator;
      out += json::serialize(json::string(member.key()));
      out += ':';
      append(out, member.value());
      separator = ",";
    }
    out += object->empty() ? "{}" : "}";
  } else if (const auto* array = value.if_array()) {
    const char* separator = "[";
    for (const auto& element : *array) {
      out += separator;
      append(out, element);
      separator = ",";
    }
    out += array->empty() ? "[]" : "]";
  } else if (const auto* number = value.if_double()) {
    if (std::isfinite(*number)) {
      fmt::format_to(std::back_inserter(out), "{}", *number);
    } else {
      out += "null";
    }
  } else {
    out += json::serialize(value);
  }
}

}  // namespace

std::string dump(const json::value& value) {
  std::string out;
  append(out, value);
  return out;
}

Result<json::value> parse_json(std::string_view text, const std::string& what) {
  DALSEGNO_TRY(check_utf8(text, what));
  json::error_code error;
  json::parse_options options;
  options.max_depth = kMostNested;
  json::stream_parser parser({}, options);
  std::size_t read = parser.write_some(text, error);
  if (!error && read < text.size()) error = json::error::extra_data;
  if (!error) parser.finish(error);
  if (!error) return parser.release();
  return Error{ErrorCode::invalid_argument,
               fmt::format("{} is not JSON at byte offset {}: {}", what, read, error.message())};
}

Result<std::vector<TokenId>> token_ids(const json::value& value, const std::string& what, int vocabulary) {
  const auto* array = value.if_array();
  if (array == nullptr) {
    return Error{ErrorCode::invalid_argument, fmt::format("{} must be a JSON array of token ids", what)};
  }
  if (array->empty()) return Error{ErrorCode::invalid_argument, fmt::format("{} holds no token ids", what)};
  std::vector<TokenId> ids;
  ids.reserve(array->size());
  for (const auto& element : *array) {
    const auto* number = element.if_double();
    if (number != nullptr && *number >= 0 && *number < vocabulary && std::floor(*number) == *number) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: element {} has a fraction or an exponent; write the token id as an integer: {}",
                               what, ids.size(), *number)};
    }
    const auto* id = element.if_int64();
    if (id == nullptr || *id < 0 || *id >= vocabulary) {
      return Error{ErrorCode::invalid_argument, fmt::format("{}: element {} is {}, not a token id from 0 to {}", what,
                                                            ids.size(), dump(element), vocabulary - 1)};
    }
    ids.push_back(static_cast<TokenId>(*id));
  }
  return ids;
}

}  // namespace dalsegno::cli
