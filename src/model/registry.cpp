#include "model/registry.hpp"

#include <fmt/format.h>

#include "gguf/printable.hpp"
#include "model/gemma3.hpp"
#include "model/llama.hpp"
#include "model/qwen2.hpp"
#include "model/qwen3.hpp"
#include "tensor/packing.hpp"

namespace dalsegno {
namespace {

using Load = Result<std::unique_ptr<Model>> (*)(const GgufFile&, const ModelConfig&, const ModelLimits&, Backend&);

struct Row {
  const char* architecture;
  Load load;
};

// One row per architecture that runs.
constexpr Row kRows[] = {
    {"llama", load_llama},
    {"qwen2", load_qwen2},
    {"qwen3", load_qwen3},
    {"gemma3", load_gemma3},
};

const Row* find(const std::string& architecture) {
  for (const Row& row : kRows) {
    if (architecture == row.architecture) return &row;
  }
  return nullptr;
}

}  // namespace

bool runnable(const std::string& architecture) {
  return find(architecture) != nullptr;
}

Result<std::unique_ptr<Model>> load_model(const GgufFile& file, const ModelConfig& config, const ModelLimits& limits,
                                          Backend& backend) {
  const Row* row = find(config.architecture);
  if (row == nullptr) {
    std::string known;
    for (const Row& each : kRows) known += (known.empty() ? "" : ", ") + std::string(each.architecture);
    return Error{ErrorCode::unsupported,
                 fmt::format("{}: architecture \"{}\" cannot be run by this version, which runs: {}",
                             quoted_path(file.path()), config.architecture, known)};
  }
  return row->load(file, config, limits, backend);
}

std::uint64_t packed_weight_bytes(const GgufFile& file) {
  std::uint64_t bytes = 0;
  for (const GgufTensor& tensor : file.tensors()) {
    const bool matrix = tensor.dims.size() == 2;
    bytes += matrix ? packed_bytes(packed_format(tensor.type), static_cast<int>(tensor.dims[1]),
                                   static_cast<int>(tensor.dims[0]))
                    : tensor.bytes;
  }
  return bytes;
}

}  // namespace dalsegno
