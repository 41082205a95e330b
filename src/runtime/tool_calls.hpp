#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/tools.hpp"

namespace dalsegno {

// The definitions as templates expect them: [{"type":"function","function":{name, description, parameters}}, ...].
// Errors: invalid_argument (a name that is empty or there twice, parameters that are no JSON object).
Result<std::string> tools_json(const std::vector<Tool>& tools);

// The style that a rendered prompt with tools asks the model for.
ToolCallStyle style_asked_for(std::string_view prompt);

// Name and arguments, with keys sorted and numbers written alike: equal for calls that mean the same.
std::string signature(const ToolCall& call);

}  // namespace dalsegno
