#pragma once

#include <cstdint>
#include <string>

#include "dalsegno/memory.hpp"

namespace dalsegno {

// In bytes; 0 where the system does not say.
struct MachineMemory {
  std::uint64_t available = 0;  // what this process could still take without swapping, control groups considered
  std::uint64_t total = 0;      // of the machine, or the least limit of its control groups
};
[[nodiscard]] MachineMemory machine_memory();

struct MemoryLimits {
  std::uint64_t active = 0;
  std::uint64_t idle = 0;
};
// The formulas of docs/memory.md.
[[nodiscard]] MemoryLimits memory_limits(const MemoryOptions& options, const MachineMemory& machine);

// Files in which the system tells of memory pressure; those that do not exist tell nothing.
struct PressurePaths {
  std::string events;  // memory.events of a control group (version 2)
  std::string stall;   // pressure stall information (PSI)
};
// Those of this process's control group, or else of the machine.
[[nodiscard]] PressurePaths pressure_paths();

// Tells whether memory has run short. Reads files; keeps none open.
class PressureWatch {
 public:
  explicit PressureWatch(PressurePaths paths);
  [[nodiscard]] bool can_tell() const { return can_tell_; }
  // True if the group reached its `high` or `max` limit since the last look (or construction), or if tasks
  // stood still for lack of memory for a tenth of the last ten seconds.
  bool look();

 private:
  [[nodiscard]] std::uint64_t events() const;

  PressurePaths paths_;
  bool can_tell_ = false;
  std::uint64_t seen_ = 0;
};

}  // namespace dalsegno
