#pragma once

#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

#include "backend/backend.hpp"
#include "dalsegno/result.hpp"
#include "gguf/gguf.hpp"

namespace dalsegno {

// Puts a result's value into `target`, or leaves with its error.
template <class T>
Result<void> put(T& target, Result<T> result) {
  if (!result.ok()) return std::move(result).error();
  target = std::move(result).value();
  return {};
}

// Tensors of a file by name, as the backend's handles. Shapes were checked by read_config.
// Several names: matrices side by side, vectors one after another.
Result<std::unique_ptr<Weight>> load_weight(const GgufFile& file, std::initializer_list<std::string> names,
                                            Backend& backend);
Result<std::unique_ptr<Vector>> load_vector(const GgufFile& file, std::initializer_list<std::string> names,
                                            Backend& backend);
// nullptr if the file has none of them. Errors: corrupt if it has some but not all.
Result<std::unique_ptr<Vector>> load_optional_vector(const GgufFile& file, std::initializer_list<std::string> names,
                                                     Backend& backend);

}  // namespace dalsegno
