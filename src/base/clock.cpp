#include "base/clock.hpp"

namespace dalsegno {
namespace {

class SteadyClock final : public MonotonicClock {
 public:
  [[nodiscard]] std::chrono::milliseconds now() const override {
    return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now().time_since_epoch());
  }
};

}  // namespace

const MonotonicClock& steady_clock() {
  static const SteadyClock clock;
  return clock;
}

}  // namespace dalsegno
