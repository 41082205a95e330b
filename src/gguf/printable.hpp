#pragma once

#include <string>
#include <string_view>

namespace dalsegno {

// Text from a file or a command line, fit for one line of UTF-8: control characters and ill-formed
// bytes become \xNN.
[[nodiscard]] std::string printable(std::string_view text);

// The same in single quotes, cut after 80 bytes: for names in error sentences.
[[nodiscard]] std::string quoted_name(std::string_view text);
// The same, whole.
[[nodiscard]] std::string quoted_path(std::string_view path);

}  // namespace dalsegno
