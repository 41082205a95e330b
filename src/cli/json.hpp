#pragma once

#include <boost/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"

namespace dalsegno::cli {

// One line without a line break. Numbers in the shortest form that reads back as the same double
// (a plain 18 where the library writes 1.8E1); NaN and infinity, which JSON lacks, as null.
[[nodiscard]] std::string dump(const boost::json::value& value);

// what: names the text in the error, e.g. "line 3 of talk.jsonl".
Result<boost::json::value> parse_json(std::string_view text, const std::string& what);

// The token ids of a JSON array. Errors: anything else, an empty array, an id outside [0, vocabulary).
Result<std::vector<TokenId>> token_ids(const boost::json::value& value, const std::string& what, int vocabulary);

}  // namespace dalsegno::cli
