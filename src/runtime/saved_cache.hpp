#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/files.hpp"
#include "dalsegno/prompt_cache.hpp"
#include "dalsegno/result.hpp"

namespace dalsegno {

// Saved caches: the K/V of a sequence in a safetensors file, as docs/saved_caches.md describes it byte for byte, with
// whatever its owner adds as a text.
// Errors: as PromptCache::save() and load().
Result<void> save_cache(FileSystem& files, const std::string& path, const PromptCache& cache,
                        const std::string& attached = {});
struct SavedCache {
  PromptCache cache;
  std::string attached;
};
Result<SavedCache> load_cache(FileSystem& files, const std::string& path, Engine& engine, const std::string& salt);

}  // namespace dalsegno
