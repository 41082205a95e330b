#include "dalsegno/types.hpp"

namespace dalsegno {

const char* name(KvFormat format) {
  return format == KvFormat::bf16 ? "bf16" : "f32";
}

const char* name(Stopped stopped) {
  switch (stopped) {
    case Stopped::end:
      return "end";
    case Stopped::cold:
      return "cold";
    case Stopped::diverged:
      return "diverged";
    case Stopped::evicted:
      return "evicted";
    case Stopped::window:
      return "window";
    case Stopped::name_space:
      return "namespace";
    case Stopped::off:
      return "off";
  }
  return "cold";
}

const char* name(FinishReason reason) {
  switch (reason) {
    case FinishReason::stop:
      return "stop";
    case FinishReason::length:
      return "length";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::error:
      return "error";
  }
  return "error";
}

}  // namespace dalsegno
