#pragma once

#include <cstdint>
#include <optional>

namespace dalsegno {

// One memory budget covers the process: the engines that are open together share it. The first one sets it, and it
// ends with the last. docs/memory.md has the formulas.

// Where limits that are not given in bytes come from.
enum class MemoryPreset : std::uint8_t {
  automatic,      // half of what is available at start; half of that while nothing runs
  idle,           // a quarter of what is available at start; nothing cached while nothing runs
  unconstrained,  // all that the machine or the control group has, always
};

// The word for it on the command line and in sentences.
[[nodiscard]] const char* name(MemoryPreset preset);

// What an engine asks for. Engines that are open together must ask for the same.
struct MemoryOptions {
  MemoryPreset preset = MemoryPreset::automatic;
  std::uint64_t bytes = 0;  // at most, weights included; 0: by the preset
  // Kept while neither a request runs nor a Session exists: what is cached beyond it is given back. Weights and work
  // buffers stay, so 0 means that nothing stays cached. Not given: by the preset, or `bytes` if those are given.
  std::optional<std::uint64_t> idle_bytes{};
  bool operator==(const MemoryOptions&) const = default;
};

// In bytes.
struct MemoryReport {
  std::uint64_t limit = 0;
  std::uint64_t idle_limit = 0;
  std::uint64_t weights = 0, kv = 0, index = 0, log_probs = 0, work = 0;  // reserved now
  int engines = 0;
  bool active = false;         // a request runs or a Session exists
  std::uint64_t pressure = 0;  // how often the system was short of memory and caches were cut down for it
};
// Nothing while no engine is open. Threads: any.
[[nodiscard]] std::optional<MemoryReport> memory_report();

// Gives back to the system what no running request uses: everything cached, and the step buffers of all engines,
// which fill again as they are needed. Waits for the steps that run.
// Requires: not called from a callback.
void release_all();

}  // namespace dalsegno
