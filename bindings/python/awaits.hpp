#pragma once

namespace dalsegno {
class Engine;
}

namespace dalsegno::python {

// A logits processor runs within a step of its engine, on that engine's thread: whoever waits for the engine in there
// waits for ever. So every wait for an engine says so first.

// Which engine something needs.
class Needed {
 public:
  static Needed nothing() { return {nullptr, false}; }
  static Needed all() { return {nullptr, true}; }
  static Needed of(const Engine* engine) { return {engine, false}; }

 private:
  friend class Awaits;
  Needed(const Engine* engine, bool all) : engine_(engine), all_(all) {}
  const Engine* engine_;
  bool all_;
};

// While this thread waits.
class Awaits {
 public:
  // Raises invalid_argument if the engine needed, or one whose step waits for that one, is that of the step within
  // which this thread is.
  explicit Awaits(Needed needed);
  ~Awaits();
  Awaits(const Awaits&) = delete;
  Awaits& operator=(const Awaits&) = delete;

 private:
  bool noted_ = false;
};

// While a processor of this engine runs on this thread.
class WithinStep {
 public:
  explicit WithinStep(const Engine* engine);
  ~WithinStep();
  WithinStep(const WithinStep&) = delete;
  WithinStep& operator=(const WithinStep&) = delete;
};
[[nodiscard]] bool is_within_step();

}  // namespace dalsegno::python
