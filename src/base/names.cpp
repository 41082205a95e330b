#include "dalsegno/memory.hpp"
#include "dalsegno/types.hpp"

namespace dalsegno {

const char* name(MemoryPreset preset) {
  switch (preset) {
    case MemoryPreset::automatic:
      return "automatic";
    case MemoryPreset::idle:
      return "idle";
    case MemoryPreset::unconstrained:
      return "unconstrained";
  }
  return "automatic";
}

const char* name(KvFormat format) {
  switch (format) {
    case KvFormat::bf16:
      return "bf16";
    case KvFormat::f32:
      return "f32";
    case KvFormat::q8:
      return "8";
    case KvFormat::q4:
      return "4";
  }
  return "bf16";
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
    case FinishReason::deadline:
      return "deadline";
    case FinishReason::error:
      return "error";
    case FinishReason::dead_end:
      return "dead_end";
  }
  return "error";
}

const char* name(Speculation speculation) {
  return speculation == Speculation::off ? "off" : "automatic";
}

}  // namespace dalsegno
