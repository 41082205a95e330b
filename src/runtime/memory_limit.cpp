#include "runtime/memory_limit.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <utility>

namespace dalsegno {
namespace {

constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();
constexpr std::uint64_t kSmallestBudget = 256ULL << 20;

// The number in a one-line file, or kUnlimited ("max", or no such file).
std::uint64_t read_number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  return file >> value ? value : kUnlimited;
}

std::uint64_t meminfo(const std::string& field) {
  std::ifstream file("/proc/meminfo");
  std::string word;
  std::uint64_t kib = 0;
  while (file >> word) {
    if (word == field && file >> kib) return kib << 10;
  }
  return 0;
}

// The folder of this process's control group (version 2), or "" if it has none.
std::string control_group() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("0::", 0) == 0) return line.substr(3);
  }
  return "";
}

constexpr const char* kGroups = "/sys/fs/cgroup";

// The number behind `field` in the first line that begins with `line_start` and has one.
bool read_field(const std::string& path, const std::string& line_start, const std::string& field, double& value) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind(line_start, 0) != 0) continue;
    const auto at = line.find(field);
    if (at == std::string::npos) continue;
    std::istringstream number(line.substr(at + field.size()));
    return static_cast<bool>(number >> value);
  }
  return false;
}

}  // namespace

MachineMemory machine_memory() {
  MachineMemory memory{meminfo("MemAvailable:"), meminfo("MemTotal:")};
  std::string group = control_group();
  while (!group.empty()) {
    const std::string folder = kGroups + group;
    const std::uint64_t limit = read_number(folder + "/memory.max");
    const std::uint64_t used = read_number(folder + "/memory.current");
    if (limit != kUnlimited) memory.total = std::min(memory.total, limit);
    if (limit != kUnlimited && used != kUnlimited) {
      memory.available = std::min(memory.available, limit - std::min(limit, used));
    }
    const auto parent = group.find_last_of('/');
    group.erase(parent == std::string::npos ? 0 : parent);
  }
  return memory;
}

MemoryLimits memory_limits(const MemoryOptions& options, const MachineMemory& machine) {
  MemoryLimits limits;
  switch (options.preset) {
    case MemoryPreset::automatic:
      limits.active = machine.available / 2;
      break;
    case MemoryPreset::idle:
      limits.active = machine.available / 4;
      break;
    case MemoryPreset::unconstrained:
      limits.active = machine.total;
      break;
  }
  limits.active = options.bytes > 0 ? options.bytes : std::max(kSmallestBudget, limits.active);
  if (options.idle_bytes) {
    limits.idle = *options.idle_bytes;
  } else if (options.preset == MemoryPreset::automatic) {
    limits.idle = options.bytes > 0 ? limits.active : limits.active / 2;
  } else if (options.preset == MemoryPreset::unconstrained) {
    limits.idle = limits.active;
  }
  return limits;
}

PressurePaths pressure_paths() {
  const std::string group = control_group();
  PressurePaths paths{kGroups + group + "/memory.events", kGroups + group + "/memory.pressure"};
  double value = 0;
  if (group.empty() || !read_field(paths.stall, "some", "avg10=", value)) paths.stall = "/proc/pressure/memory";
  return paths;
}

PressureWatch::PressureWatch(PressurePaths paths) : paths_(std::move(paths)), seen_(events()) {
  double value = 0;
  can_tell_ = read_field(paths_.events, "high ", "high ", value) || read_field(paths_.stall, "some", "avg10=", value);
}

std::uint64_t PressureWatch::events() const {
  double high = 0;
  double max = 0;
  read_field(paths_.events, "high ", "high ", high);
  read_field(paths_.events, "max ", "max ", max);
  return static_cast<std::uint64_t>(high + max);
}

bool PressureWatch::look() {
  constexpr double kStalled = 10;  // percent of the last ten seconds
  const std::uint64_t before = std::exchange(seen_, events());
  double stalled = 0;
  return seen_ > before || (read_field(paths_.stall, "some", "avg10=", stalled) && stalled >= kStalled);
}

}  // namespace dalsegno
