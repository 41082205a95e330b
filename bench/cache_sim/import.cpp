#include <fmt/format.h>

#include <boost/json.hpp>
#include <fstream>
#include <iterator>
#include <limits>
#include <unordered_map>
#include <utility>

#include "cache_sim/trace.hpp"

namespace dalsegno::cache_sim {
namespace {

namespace json = boost::json;

const json::array* hash_ids(const json::value& value) {
  const json::object* object = value.if_object();
  const json::value* ids = object == nullptr ? nullptr : object->if_contains("hash_ids");
  return ids == nullptr ? nullptr : ids->if_array();
}

}  // namespace

Result<Trace> parse_trace(std::string_view text) {
  Trace trace{"imported", {}, 0};
  std::unordered_map<std::int64_t, std::uint32_t> numbers;  // ids may be hashes of 64 bits
  for (int line = 1; !text.empty(); ++line) {
    const std::string_view here = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), here.size() + 1));
    if (here.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    boost::system::error_code error;
    const json::value value = json::parse({here.data(), here.size()}, error);
    const json::array* ids = error ? nullptr : hash_ids(value);
    if (ids == nullptr) {
      return Error{ErrorCode::corrupt, fmt::format("line {} is not a JSON object with an array \"hash_ids\"", line)};
    }
    Request request;
    for (const json::value& id : *ids) {
      if (!id.is_int64()) return Error{ErrorCode::corrupt, fmt::format("line {}: a block id is not an integer", line)};
      request.prompt.push_back(
          numbers.try_emplace(id.get_int64(), static_cast<std::uint32_t>(numbers.size() + 1)).first->second);
    }
    if (!request.prompt.empty()) trace.requests.push_back(std::move(request));
  }
  trace.budget = unique_blocks(trace) / 10;
  return trace;
}

Result<Trace> import_trace(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return Error{ErrorCode::not_found, fmt::format("cannot read {}", path)};
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  DALSEGNO_ASSIGN(trace, parse_trace(text));
  trace.name = path.substr(path.rfind('/') + 1);
  return trace;
}

}  // namespace dalsegno::cache_sim
