#pragma once

namespace dalsegno::python {

// A child of fork() has none of the threads that serve its parent's engines, and maybe locks that these held: there,
// nothing of an engine may be used, waited for or destroyed.

// Whether this process is such a child.
[[nodiscard]] bool is_forked();
// Raises unsupported if it is.
void refuse_if_forked();
// From now on, when this process has threads of its own.
void watch_forks();

}  // namespace dalsegno::python
