#pragma once

// For tests only: makes GGUF files, whole or damaged on purpose.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/gguf.hpp"

namespace dalsegno::testing {

// The bytes of a number as the file has it.
template <class T>
std::string raw(T value) {
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}
inline std::string raw_string(std::string_view text) {
  return raw(std::uint64_t{text.size()}).append(text);
}

// A value: its type code and bytes. Damage either to taste.
struct TestValue {
  std::uint32_t type = 0;
  std::string bytes;
};
inline std::uint32_t code(GgufType type) {
  return static_cast<std::uint32_t>(type);
}
inline TestValue u32(std::uint32_t value) {
  return {code(GgufType::u32), raw(value)};
}
inline TestValue u64(std::uint64_t value) {
  return {code(GgufType::u64), raw(value)};
}
inline TestValue i32(std::int32_t value) {
  return {code(GgufType::i32), raw(value)};
}
inline TestValue f32(float value) {
  return {code(GgufType::f32), raw(value)};
}
inline TestValue boolean(bool value) {
  return {code(GgufType::boolean), raw(std::uint8_t{value})};
}
inline TestValue text(std::string_view value) {
  return {code(GgufType::string), raw_string(value)};
}
inline TestValue array(GgufType element, std::uint64_t count, const std::string& bytes) {
  return {code(GgufType::array), raw(code(element)) + raw(count) + bytes};
}
inline TestValue texts(const std::vector<std::string>& values) {
  std::string bytes;
  for (const std::string& value : values) bytes += raw_string(value);
  return array(GgufType::string, values.size(), bytes);
}
template <class T>
TestValue numbers(GgufType element, const std::vector<T>& values) {
  std::string bytes;
  for (const T value : values) bytes += raw(value);
  return array(element, values.size(), bytes);
}

struct TestKey {
  std::string name;
  TestValue value;
  std::optional<std::uint64_t> name_length;  // a lie about it
};

struct TestTensor {
  std::string name;
  std::uint32_t type = 0;
  std::vector<std::uint64_t> dims;
  std::string data;                                  // as long as the type and dims ask for, or longer
  std::optional<std::uint64_t> name_length, offset;  // lies about them
  std::optional<std::uint32_t> dimensions;
};

// A file as a list of what it says. Every field may be changed before bytes() is called.
struct TestGguf {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::optional<std::uint64_t> tensor_count, key_count;
  std::uint64_t alignment = 32;  // of the data; says nothing about the key
  bool pad_end = true;
  std::vector<TestKey> keys;
  std::vector<TestTensor> tensors;

  // Adds the key, or replaces its value.
  void set(const std::string& name, TestValue value) {
    const auto at = std::find_if(keys.begin(), keys.end(), [&](const TestKey& key) { return key.name == name; });
    if (at != keys.end()) {
      at->value = std::move(value);
    } else {
      keys.push_back({name, std::move(value), {}});
    }
  }
  // Requires, as tensor(): it is there.
  TestKey& key(const std::string& name) {
    return *std::find_if(keys.begin(), keys.end(), [&](const TestKey& key) { return key.name == name; });
  }
  TestTensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const TestTensor& t) { return t.name == name; });
  }
  void remove_key(const std::string& name) {
    keys.erase(std::remove_if(keys.begin(), keys.end(), [&](const TestKey& k) { return k.name == name; }), keys.end());
  }
  void remove_tensor(const std::string& name) {
    const auto named = [&](const TestTensor& t) { return t.name == name; };
    tensors.erase(std::remove_if(tensors.begin(), tensors.end(), named), tensors.end());
  }
  // A tensor with data: small values where it is F32, zero bytes otherwise.
  void add_tensor(const std::string& name, TensorType type, const std::vector<std::uint64_t>& dims) {
    std::uint64_t elements = 1;
    for (const std::uint64_t size : dims) elements *= size;
    const auto block = static_cast<std::uint64_t>(traits(type).block_elements);
    TestTensor tensor{name, static_cast<std::uint32_t>(type), dims, {}, {}, {}, {}};
    tensor.data.resize(elements / block * static_cast<std::uint64_t>(traits(type).block_bytes));
    for (std::uint64_t i = 0; type == TensorType::f32 && i < elements; ++i) {
      const float value = static_cast<float>(i % 7 + 1) / 16.0F;
      std::memcpy(tensor.data.data() + 4 * i, &value, 4);
    }
    tensors.push_back(std::move(tensor));
  }

  // All before the data, its padding included.
  [[nodiscard]] std::string header() const {
    std::string out =
        magic + raw(version) + raw(tensor_count.value_or(tensors.size())) + raw(key_count.value_or(keys.size()));
    for (const TestKey& key : keys) {
      out += raw(key.name_length.value_or(key.name.size())) + key.name + raw(key.value.type) + key.value.bytes;
    }
    std::uint64_t offset = 0;
    for (const TestTensor& tensor : tensors) {
      out += raw(tensor.name_length.value_or(tensor.name.size())) + tensor.name;
      out += raw(tensor.dimensions.value_or(static_cast<std::uint32_t>(tensor.dims.size())));
      for (const std::uint64_t size : tensor.dims) out += raw(size);
      out += raw(tensor.type) + raw(tensor.offset.value_or(offset));
      offset = padded(offset + tensor.data.size());
    }
    out.resize(padded(out.size()));
    return out;
  }
  [[nodiscard]] std::string bytes() const {
    std::string out = header();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      out += tensors[i].data;
      if (pad_end || i + 1 < tensors.size()) out.resize(padded(out.size()));
    }
    return out;
  }

 private:
  [[nodiscard]] std::uint64_t padded(std::uint64_t size) const {
    return (size + alignment - 1) / alignment * alignment;
  }
};

struct TinyModel {
  std::string architecture = "llama";
  TensorType type = TensorType::q8_0;  // of the matrices
  std::uint32_t layers = 2;
  std::uint32_t hidden = 32;
  std::uint32_t feed_forward = 64;
  std::uint32_t heads = 2;
  std::uint32_t kv_heads = 1;
  std::uint32_t head_dim = 16;
  std::uint32_t context = 256;
};

// The 256 characters that stand for bytes in GPT-2's vocabulary, then <s>, </s> and the one merge, "ab".
inline std::vector<std::string> byte_level_tokens() {
  const auto encoded = [](unsigned character) {
    if (character < 0x80U) return std::string(1, static_cast<char>(character));
    return std::string{static_cast<char>(0xC0U | (character >> 6U)), static_cast<char>(0x80U | (character & 0x3FU))};
  };
  std::vector<std::string> tokens;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool itself = (byte > 0x20U && byte < 0x7FU) || (byte > 0xA0U && byte != 0xADU);
    tokens.push_back(encoded(itself ? byte : next++));
  }
  tokens.emplace_back("<s>");
  tokens.emplace_back("</s>");
  tokens.emplace_back("ab");
  return tokens;
}

inline void add_layer(TestGguf& file, const TinyModel& model, std::uint32_t layer) {
  const std::string prefix = "blk." + std::to_string(layer) + ".";
  const std::uint64_t q = std::uint64_t{model.heads} * model.head_dim;
  const std::uint64_t kv = std::uint64_t{model.kv_heads} * model.head_dim;
  file.add_tensor(prefix + "attn_norm.weight", TensorType::f32, {model.hidden});
  file.add_tensor(prefix + "attn_q.weight", model.type, {model.hidden, q});
  file.add_tensor(prefix + "attn_k.weight", model.type, {model.hidden, kv});
  file.add_tensor(prefix + "attn_v.weight", model.type, {model.hidden, kv});
  file.add_tensor(prefix + "attn_output.weight", model.type, {q, model.hidden});
  file.add_tensor(prefix + "ffn_norm.weight", TensorType::f32, {model.hidden});
  file.add_tensor(prefix + "ffn_gate.weight", model.type, {model.hidden, model.feed_forward});
  file.add_tensor(prefix + "ffn_up.weight", model.type, {model.hidden, model.feed_forward});
  file.add_tensor(prefix + "ffn_down.weight", model.type, {model.feed_forward, model.hidden});
  if (model.architecture == "qwen2") {
    file.add_tensor(prefix + "attn_q.bias", TensorType::f32, {q});
    file.add_tensor(prefix + "attn_k.bias", TensorType::f32, {kv});
    file.add_tensor(prefix + "attn_v.bias", TensorType::f32, {kv});
  }
  if (model.architecture == "qwen3" || model.architecture == "gemma3") {
    file.add_tensor(prefix + "attn_q_norm.weight", TensorType::f32, {model.head_dim});
    file.add_tensor(prefix + "attn_k_norm.weight", TensorType::f32, {model.head_dim});
  }
  if (model.architecture == "gemma3") {
    file.add_tensor(prefix + "post_attention_norm.weight", TensorType::f32, {model.hidden});
    file.add_tensor(prefix + "post_ffw_norm.weight", TensorType::f32, {model.hidden});
  }
}

// A whole, well-formed model with a byte-level tokenizer.
inline TestGguf tiny_model(const TinyModel& model = {}) {
  TestGguf file;
  const std::string prefix = model.architecture + ".";
  const std::vector<std::string> tokens = byte_level_tokens();
  file.set("general.architecture", text(model.architecture));
  file.set("general.name", text("tiny"));
  file.set(prefix + "context_length", u32(model.context));
  file.set(prefix + "embedding_length", u32(model.hidden));
  file.set(prefix + "block_count", u32(model.layers));
  file.set(prefix + "feed_forward_length", u32(model.feed_forward));
  file.set(prefix + "attention.head_count", u32(model.heads));
  file.set(prefix + "attention.head_count_kv", u32(model.kv_heads));
  file.set(prefix + "attention.key_length", u32(model.head_dim));
  file.set(prefix + "attention.value_length", u32(model.head_dim));
  file.set(prefix + "attention.layer_norm_rms_epsilon", f32(1e-5F));
  file.set(prefix + "rope.freq_base", f32(10000.0F));
  file.set("tokenizer.ggml.model", text("gpt2"));
  file.set("tokenizer.ggml.pre", text("smollm"));
  file.set("tokenizer.ggml.tokens", texts(tokens));
  std::vector<std::int32_t> types(tokens.size(), 1);
  types[256] = types[257] = 3;  // control
  file.set("tokenizer.ggml.token_type", numbers(GgufType::i32, types));
  file.set("tokenizer.ggml.merges", texts({"a b"}));
  file.set("tokenizer.ggml.bos_token_id", u32(256));
  file.set("tokenizer.ggml.eos_token_id", u32(257));
  file.add_tensor("token_embd.weight", model.type, {model.hidden, tokens.size()});
  for (std::uint32_t layer = 0; layer < model.layers; ++layer) add_layer(file, model, layer);
  file.add_tensor("output_norm.weight", TensorType::f32, {model.hidden});
  return file;
}

}  // namespace dalsegno::testing
