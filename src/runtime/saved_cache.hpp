#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/files.hpp"
#include "dalsegno/prompt_cache.hpp"
#include "dalsegno/result.hpp"
#include "runtime/local_engine.hpp"

namespace dalsegno {

// Saved caches: the K/V of a sequence in a safetensors file, as docs/saved_caches.md describes it byte for byte, with
// whatever its owner adds as a text.
// Without tokens there are no K/V. Errors: as PromptCache::save() and load().
Result<void> save_cache(FileSystem& files, const std::string& path, LocalEngine& engine, const PromptCache& cache,
                        const std::string& attached = {});
struct SavedCache {
  PromptCache cache;
  std::string attached;
};
Result<SavedCache> load_cache(FileSystem& files, const std::string& path, Engine& engine, const std::string& salt,
                              HeldTables::Keep keep = HeldTables::Keep::pinned);

// What must be the same for K/V to be the same, by the names and words of the file.
std::map<std::string, std::string> key_metadata(const NumericsKey& key);

}  // namespace dalsegno
