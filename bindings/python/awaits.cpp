#include "bindings/python/awaits.hpp"

#include <map>
#include <mutex>

#include "bindings/python/python.hpp"

namespace dalsegno::python {
namespace {

thread_local const Engine* t_step = nullptr;

// For which engine the step of another one waits. Two engines whose processors ask each other make a circle.
struct Waits {
  std::mutex mutex;
  std::map<const Engine*, const Engine*> of;  // guarded by mutex
};
Waits& waits() {
  static auto* const one = new Waits;  // never destroyed: threads of engines may outlive everything else
  return *one;
}

}  // namespace

Awaits::Awaits(Needed needed) {
  if (t_step == nullptr || (needed.engine_ == nullptr && !needed.all_)) return;
  const std::lock_guard lock(waits().mutex);
  bool is_circle = needed.all_;
  for (const Engine* engine = needed.engine_; engine != nullptr && !is_circle;) {
    is_circle = engine == t_step;
    const auto next = waits().of.find(engine);
    engine = next == waits().of.end() ? nullptr : next->second;
  }
  if (is_circle) {
    raise(ErrorCode::invalid_argument,
          "a logits processor runs within a step of its engine, which cannot answer until the processor has returned; "
          "ask before the request or after it, or ask another engine");
  }
  noted_ = waits().of.emplace(t_step, needed.engine_).second;
}

Awaits::~Awaits() {
  if (!noted_) return;
  const std::lock_guard lock(waits().mutex);
  waits().of.erase(t_step);
}

WithinStep::WithinStep(const Engine* engine) {
  t_step = engine;
}

WithinStep::~WithinStep() {
  t_step = nullptr;
}

bool is_within_step() {
  return t_step != nullptr;
}

}  // namespace dalsegno::python
