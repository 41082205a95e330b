#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dalsegno/result.hpp"
#include "dalsegno/types.hpp"
#include "dalsegno_bridge.h"

namespace dalsegno {

inline dsb_text borrow(std::string_view text) {
  return {text.data(), text.size()};
}

// What a bridge call filled, given back when this goes.
class BridgeBuffer {
 public:
  BridgeBuffer() = default;
  ~BridgeBuffer() { dsb_buffer_free(raw_); }
  BridgeBuffer(const BridgeBuffer&) = delete;
  BridgeBuffer& operator=(const BridgeBuffer&) = delete;

  dsb_buffer* out() { return &raw_; }
  [[nodiscard]] std::string_view view() const { return {raw_.data, raw_.size}; }

 private:
  dsb_buffer raw_ = {};
};

class BridgeIds {
 public:
  BridgeIds() = default;
  ~BridgeIds() { dsb_ids_free(raw_); }
  BridgeIds(const BridgeIds&) = delete;
  BridgeIds& operator=(const BridgeIds&) = delete;

  dsb_ids* out() { return &raw_; }
  [[nodiscard]] std::vector<TokenId> copy() const { return {raw_.data, raw_.data + raw_.size}; }

 private:
  dsb_ids raw_ = {};
};

// Requires: code is not DSB_OK.
inline Error bridge_error(int code, const BridgeBuffer& message) {
  ErrorCode kind = ErrorCode::invalid_argument;
  if (code == DSB_CORRUPT) kind = ErrorCode::corrupt;
  if (code == DSB_UNSUPPORTED) kind = ErrorCode::unsupported;
  if (code == DSB_EXHAUSTED) kind = ErrorCode::exhausted;
  return Error{kind, std::string(message.view())};
}

}  // namespace dalsegno
