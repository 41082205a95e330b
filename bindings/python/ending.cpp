#include "bindings/python/ending.hpp"

#include <atomic>
#include <chrono>
#include <thread>

#include "bindings/python/python.hpp"

namespace dalsegno::python {
namespace {

// Atomics and no mutex: a forked child has no thread that would unlock it. An entry counts itself before it looks
// whether they are closed, and who closes them looks at the count afterwards: one of both sees the other.
std::atomic<bool> g_closed = false;
std::atomic<int> g_entries = 0;
std::thread::id g_closer;  // written before g_closed

thread_local int t_entries = 0;

void leave() {
  if (g_entries.fetch_sub(1) == 1 && g_closed) g_entries.notify_all();
}

}  // namespace

Entry::Entry() : given_(true) {
  ++t_entries;
  if (t_entries > 1) return;
  ++g_entries;
  if (!is_closed_to_this_thread()) return;
  leave();
  --t_entries;
  given_ = false;
}

Entry::~Entry() {
  if (given_ && --t_entries == 0) leave();
}

void close_entries() {
  g_closer = std::this_thread::get_id();
  g_closed = true;
}

void wait_for_entries() {
  for (int entries = g_entries; entries != 0; entries = g_entries) g_entries.wait(entries);
}

bool is_closed_to_this_thread() {
  return g_closed && g_closer != std::this_thread::get_id();
}

void refuse_if_closed() {
  if (!is_closed_to_this_thread()) return;
  const bool is_daemon = nb::cast<bool>(nb::module_::import_("threading").attr("current_thread")().attr("daemon"));
  if (is_daemon && t_entries == 0) {  // nobody waits for it
    PyEval_SaveThread();
    stay();
  }
  raise(ErrorCode::unsupported, "the interpreter ends, and no thread but its main one can begin a call any more");
}

void stay() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(24));
}

}  // namespace dalsegno::python
