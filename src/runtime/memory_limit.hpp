#pragma once

#include <cstdint>

namespace dalsegno {

// Memory this process could still take without swapping: what the kernel calls available, or what the
// control group leaves if that is less. Bytes; 0 if the system does not say.
[[nodiscard]] std::uint64_t available_memory();

// The budget when none was given: half of available_memory(), and at least 256 MiB.
[[nodiscard]] std::uint64_t automatic_budget();

}  // namespace dalsegno
