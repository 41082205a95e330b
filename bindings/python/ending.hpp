#pragma once

#include <cxxabi.h>

namespace dalsegno::python {

// The interpreter ends while engines still work and daemon threads wait in our calls. A thread that then takes the GIL
// is ended by Python (before 3.14) by unwinding, which no noexcept function of C++ survives: the process aborts. So
// after close_entries() only the thread that called it takes the GIL; the others stay where they are.

// Leave to take the GIL for as long as it exists. Within another of the same thread it is always given.
class Entry {
 public:
  Entry();
  ~Entry();
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  // False: the GIL must not be taken any more.
  explicit operator bool() const { return given_; }

 private:
  bool given_;
};

// From now on no thread but this one gets one.
void close_entries();
// Until no other thread has one. Requires: the GIL is not held.
void wait_for_entries();
// For what begins a call: a daemon thread stays where it is, as Python 3.14 has it; others get unsupported. Requires:
// the GIL.
void refuse_if_closed();
// Whether none are given to this thread.
[[nodiscard]] bool is_closed_to_this_thread();
// For the rest of the process.
[[noreturn]] void stay();
// Runs what calls Python code of the user's. If Python ends this thread in the middle of it, it stays there instead.
template <class F>
auto in_python(F&& body) {
  try {
    return body();
  } catch (const abi::__forced_unwind&) {
    stay();
  }
}

}  // namespace dalsegno::python
