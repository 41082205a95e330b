#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "gguf/gguf.hpp"
#include "runtime/test_engine.hpp"

namespace dalsegno::testing {

inline constexpr TokenId kPoison = 200;
inline constexpr int kHidden = 128;  // of llama-gqa

// llama-gqa, where the first hidden value is the poisonous token's alone, and a weight that reads it is too large.
class OverflowingModel {
 public:
  OverflowingModel(const std::string& tensor, const std::string& path) : path_(path) {
    const std::string source = tiny_model("llama-gqa");
    std::ifstream in(source, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
    const auto file = GgufFile::open(source);
    for (const GgufTensor& each : file.value()->tensors()) {
      if (each.name == tensor) put(each.offset, 8e37F);
      if (each.name != "token_embd.weight") continue;
      const std::size_t row = kHidden * sizeof(float);
      for (std::size_t token = 0; token < each.bytes / row; ++token) put(each.offset + token * row, 0);
      put(each.offset + kPoison * row, 1000);
    }
    std::ofstream(path, std::ios::binary).write(bytes_.data(), static_cast<std::streamsize>(bytes_.size()));
  }
  ~OverflowingModel() { std::remove(path_.c_str()); }
  OverflowingModel(const OverflowingModel&) = delete;
  OverflowingModel& operator=(const OverflowingModel&) = delete;
  [[nodiscard]] std::unique_ptr<LocalEngine> open() const {
    EngineOptions options;
    options.model_path = path_;
    options.memory.bytes = 256ULL << 20;
    auto engine = LocalEngine::open(options);
    EXPECT_TRUE(engine.ok());
    return engine.ok() ? std::move(engine).value() : nullptr;
  }

 private:
  void put(std::size_t offset, float value) { std::memcpy(&bytes_[offset], &value, sizeof value); }
  std::string bytes_;
  const std::string path_;
};

}  // namespace dalsegno::testing
