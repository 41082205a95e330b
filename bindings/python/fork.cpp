#include "bindings/python/fork.hpp"

#include <pthread.h>

#include <atomic>

#include "bindings/python/python.hpp"

namespace dalsegno::python {
namespace {

std::atomic<bool> g_forked = false;

}  // namespace

bool is_forked() {
  return g_forked;
}

void refuse_if_forked() {
  if (!g_forked) return;
  raise(ErrorCode::unsupported,
        "this process was forked from one that had used dalsegno, and the threads of its engines did not come along; "
        "start processes by multiprocessing's 'spawn', or fork before the first engine is opened");
}

void watch_forks() {
  [[maybe_unused]] static const int kWatched = pthread_atfork(nullptr, nullptr, [] { g_forked = true; });
}

}  // namespace dalsegno::python
