#pragma once

namespace dalsegno::cli {

// How many bytes per second `threads` threads (0: one per core) read from memory: the best of a few sweeps
// over a buffer several times the last-level cache. Takes about a second; 0 where memory is too short. brief: over
// a small buffer that may fit a cache, in a moment.
[[nodiscard]] double read_bandwidth(int threads, bool brief);

// Bytes of the last-level cache, or a common size where the system does not say.
[[nodiscard]] double cache_bytes();

}  // namespace dalsegno::cli
