// Any bytes as a GGUF file: the reader and the config give a reading or one sentence, in bounds.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "gguf/gguf.hpp"
#include "model/config.hpp"

namespace {

void expect_one_sentence(const dalsegno::Error& error) {
  if (error.message.empty() || error.message.find_first_of("\n\r") != std::string::npos) std::abort();
}

template <class T>
void expect_value_or_sentence(const dalsegno::Result<T>& result) {
  if (!result.ok()) expect_one_sentence(result.error());
}

void read_values(const dalsegno::GgufFile& file) {
  for (const std::string& key : file.keys()) {
    if (!file.has(key)) std::abort();
    expect_value_or_sentence(file.integer(key));
    expect_value_or_sentence(file.number(key));
    expect_value_or_sentence(file.boolean_or(key, false));
    expect_value_or_sentence(file.string(key));
    expect_value_or_sentence(file.strings(key));
    expect_value_or_sentence(file.integers(key));
    expect_value_or_sentence(file.floats(key));
  }
}

void read_tensors(const dalsegno::GgufFile& file) {
  for (const dalsegno::GgufTensor& tensor : file.tensors()) {
    if (file.find_tensor(tensor.name) != &tensor) std::abort();
    volatile std::byte sink = tensor.data[0];
    sink = tensor.data[tensor.bytes - 1];
    (void)sink;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = dalsegno::GgufFile::borrow(std::as_bytes(std::span(data, size)), "fuzz.gguf");
  expect_value_or_sentence(file);
  if (!file.ok()) return 0;
  read_values(**file);
  read_tensors(**file);
  expect_value_or_sentence(dalsegno::read_config(**file));
  return 0;
}
