#pragma once

namespace dalsegno::cli {

// How many bytes per second `threads` threads (0: one per core) read from memory: the best of a few sweeps
// over a buffer several times the last-level cache. Takes about a second; 0 where memory is too short.
[[nodiscard]] double read_bandwidth(int threads);

// Bytes of the last-level cache, or a common size where the system does not say.
[[nodiscard]] double cache_bytes();

}  // namespace dalsegno::cli
