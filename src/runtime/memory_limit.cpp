#include "runtime/memory_limit.hpp"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

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

std::uint64_t mem_available() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  std::uint64_t kib = 0;
  while (file >> word) {
    if (word == "MemAvailable:" && file >> kib) return kib << 10;
  }
  return 0;
}

// What the control group of this process (version 2) leaves, limits of its parents included.
std::uint64_t control_group_room() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  std::uint64_t room = kUnlimited;
  while (std::getline(file, line)) {
    if (line.rfind("0::", 0) != 0) continue;
    for (std::string group = line.substr(3);; group.erase(group.find_last_of('/'))) {
      const std::string folder = "/sys/fs/cgroup" + group;
      const std::uint64_t limit = read_number(folder + "/memory.max");
      const std::uint64_t used = read_number(folder + "/memory.current");
      if (limit != kUnlimited && used != kUnlimited) room = std::min(room, limit - std::min(limit, used));
      if (group.find_last_of('/') == std::string::npos) break;
    }
  }
  return room;
}

}  // namespace

std::uint64_t available_memory() {
  return std::min(mem_available(), control_group_room());
}

std::uint64_t automatic_budget() {
  return std::max(kSmallestBudget, available_memory() / 2);
}

}  // namespace dalsegno
