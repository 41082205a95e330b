#pragma once

#include "bindings/python/python.hpp"
#include "dalsegno/prompt_cache.hpp"

namespace dalsegno::python {

// A prompt cache and the engine it needs.
struct PyPromptCache {
  std::shared_ptr<Engine> engine{};
  std::shared_ptr<const PromptCache> cache{};
  static PyPromptCache of(std::shared_ptr<Engine> engine, PromptCache cache);
};

}  // namespace dalsegno::python
