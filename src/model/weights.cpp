#include "model/weights.hpp"

#include <fmt/format.h>

#include <vector>

#include "gguf/printable.hpp"

namespace dalsegno {
namespace {

Result<std::vector<TensorSource>> sources(const GgufFile& file, std::initializer_list<std::string> names) {
  std::vector<TensorSource> found;
  for (const std::string& name : names) {
    const GgufTensor* tensor = file.find_tensor(name);
    if (tensor == nullptr) {
      return Error{ErrorCode::corrupt,
                   fmt::format("{}: tensor {} is missing; get the file again", quoted_path(file.path()), name)};
    }
    const int k = static_cast<int>(tensor->dims[0]);
    const int n = tensor->dims.size() > 1 ? static_cast<int>(tensor->dims[1]) : 1;
    found.push_back({name, tensor->type, tensor->data, n, k});
  }
  return found;
}

template <class T>
Result<T> in_file(const GgufFile& file, Result<T> result) {
  if (result.ok()) return result;
  Error error = std::move(result).error();
  error.message = quoted_path(file.path()) + ": " + error.message;
  return error;
}

}  // namespace

Result<std::unique_ptr<Weight>> load_weight(const GgufFile& file, std::initializer_list<std::string> names,
                                            Backend& backend) {
  DALSEGNO_ASSIGN(parts, sources(file, names));
  // What has been repacked would be in memory twice.
  return in_file(file, backend.load(parts, [&](std::span<const std::byte> piece) { file.forget(piece); }));
}

Result<std::unique_ptr<Vector>> load_vector(const GgufFile& file, std::initializer_list<std::string> names,
                                            Backend& backend) {
  DALSEGNO_ASSIGN(parts, sources(file, names));
  return in_file(file, backend.load_vector(parts));
}

Result<std::unique_ptr<Vector>> load_optional_vector(const GgufFile& file, std::initializer_list<std::string> names,
                                                     Backend& backend) {
  std::size_t present = 0;
  for (const std::string& name : names) present += file.find_tensor(name) != nullptr ? 1 : 0;
  if (present == 0) return std::unique_ptr<Vector>();
  return load_vector(file, names, backend);
}

}  // namespace dalsegno
