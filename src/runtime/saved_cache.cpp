#include "runtime/saved_cache.hpp"

#include <fmt/format.h>

#include <charconv>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>

#include "runtime/opening.hpp"
#include "runtime/prompt_cache_state.hpp"
#include "runtime/saved_layout.hpp"

namespace dalsegno {
namespace {

constexpr std::string_view kKind = "dalsegno prompt cache";
constexpr std::string_view kFormatVersion = "1";

struct Meaning {
  const char* key;
  const char* what;  // of the file, as the sentence has it
};
constexpr Meaning kMeanings[] = {
    {"fingerprint", "it belongs to another model"},
    {"numerics_version", "its arithmetic is that of another version of Dal Segno, numerics {}, and here it is {}"},
    {"activation_bits", "it was computed with activations of {} bits, and here they have {}"},
    {"kv", "its K/V are {}, and here they are {}; choose the same --kv"},
    {"kv_group_size", "its --kv-group is {}, and here it is {}"},
    {"kv_start", "its --kv-start is {}, and here it is {}"},
    {"max_kv", "its --max-kv is {}, and here it is {}"},
    {"keep", "its --keep is {}, and here it is {}"},
};

std::string text_or_none(const std::map<std::string, std::string>& metadata, const char* key) {
  const auto at = metadata.find(key);
  return at == metadata.end() ? "none" : at->second;
}

Result<void> check_key(const std::string& path, const SafetensorsHeader& header, const NumericsKey& key) {
  const auto& theirs = header.metadata;
  if (text_or_none(theirs, "format") != kKind) {
    return Error{ErrorCode::unsupported, fmt::format("'{}' is not a saved cache of Dal Segno", path)};
  }
  if (const std::string version = text_or_none(theirs, "format_version"); version != kFormatVersion) {
    return Error{ErrorCode::unsupported, fmt::format("'{}' is a saved cache of format {}, and this version reads "
                                                     "format {}; save it again",
                                                     path, version, kFormatVersion)};
  }
  const auto ours = key_metadata(key);
  for (const Meaning& meaning : kMeanings) {
    const std::string saved = text_or_none(theirs, meaning.key);
    const std::string& wanted = ours.at(meaning.key);
    if (saved == wanted) continue;
    return Error{ErrorCode::unsupported, fmt::format("'{}' cannot be used here: {}", path,
                                                     fmt::format(fmt::runtime(meaning.what), saved, wanted))};
  }
  return {};
}

SafetensorsHeader header_of(const NumericsKey& key, const SavedLayout& saved, std::size_t attached,
                            const std::string& text_hash) {
  SafetensorsHeader header;
  header.metadata = key_metadata(key);
  header.metadata["tokens"] = fmt::to_string(saved.tokens);
  header.metadata["window_begin"] = fmt::to_string(saved.window_block * kBlockTokens);
  header.metadata["text_sha256"] = text_hash;
  header.tensors.push_back({"tokens", "I32", {static_cast<std::uint64_t>(saved.tokens)}});
  if (attached > 0) header.tensors.push_back({"attached", "U8", {attached}});
  for (SavedLayout::Tensor& tensor : saved.tensors()) header.tensors.push_back(std::move(tensor.described));
  return header;
}

// The first block from which sliding-window layers have all that follows.
int first_window_block(const KvLayout& layout, const HeldTables::Pages& pages, int tokens) {
  const int blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  int first = blocks;
  while (first > layout.sink_blocks) {
    const int block = first - 1;
    if (layout.window_pages(block) == 0) break;
    const int slice = layout.first_slice(block) + layout.full_pages(block);
    if (pages.slices[static_cast<std::size_t>(slice)][static_cast<std::size_t>(block)] == nullptr) break;
    first = block;
  }
  return first <= layout.sink_blocks ? 0 : first;
}

std::optional<int> number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Error misshapen(const std::string& path) {
  return Error{ErrorCode::corrupt,
               fmt::format("'{}' cannot be used: its tensors are not those of a saved cache of this model; save it "
                           "again",
                           path)};
}

// Memory for one that saves or loads: of the budget if that has some, else the engine's own, when it is its turn.
struct Buffers {
  Reservation reserved;
  std::unique_lock<std::mutex> turn;
};
Buffers buffers_for(LocalEngine& engine, std::uint64_t file_bytes, const char* what) {
  const std::uint64_t bytes = std::min<std::uint64_t>(kSavingBytes, 4 * file_bytes);
  auto reserved = engine.memory().budget().reserve(MemoryKind::work, bytes, what);
  if (reserved.ok()) return {std::move(reserved).value(), {}};
  return {{}, engine.saving_buffers()};
}

struct Contents {
  std::vector<TokenId> tokens;
  std::string attached;
  SavedLayout layout;
};

// Reads up to where the K/V begin.
Result<Contents> read_beginning(SafetensorsReader& reader, const std::string& path, const LocalEngine& engine,
                                const KvLayout& layout) {
  const SafetensorsHeader& header = reader.header();
  const auto count = number(text_or_none(header.metadata, "tokens"));
  const auto window = number(text_or_none(header.metadata, "window_begin"));
  if (!count || *count < 0 || !window || *window < 0 || *window % kBlockTokens != 0) return misshapen(path);
  if (*count > engine.context()) {
    return Error{ErrorCode::unsupported, fmt::format("'{}' holds {} tokens, but the context here has room for {}; "
                                                     "raise --context or --memory",
                                                     path, *count, engine.context())};
  }
  Contents contents;
  contents.layout = {&layout, *count, *window / kBlockTokens};
  if (layout.slides() && contents.layout.window_block > layout.first_seen(*count) / kBlockTokens)
    return misshapen(path);
  const std::uint64_t attached =
      header.tensors.size() > 1 && header.tensors[1].name == "attached" ? header.tensors[1].bytes() : 0;
  const SafetensorsHeader expected = header_of(engine.numerics_key(), contents.layout, attached, "");
  const auto same = [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return a.name == b.name && a.dtype == b.dtype && a.shape == b.shape;
  };
  if (!std::ranges::equal(header.tensors, expected.tensors, same)) return misshapen(path);
  contents.tokens.resize(static_cast<std::size_t>(*count));
  DALSEGNO_TRY(reader.read(std::as_writable_bytes(std::span(contents.tokens))));
  contents.attached.resize(static_cast<std::size_t>(attached));
  DALSEGNO_TRY(reader.read(std::as_writable_bytes(std::span(contents.attached))));
  // With damaged ones there is nothing to look for in the cache.
  for (const TokenId token : contents.tokens) {
    if (token < 0 || token >= engine.config().vocabulary) return misshapen(path);
  }
  return contents;
}

Result<void> read_pages(SafetensorsReader& reader, const SavedLayout& saved, const HeldTables::Arrival& arrival) {
  std::vector<std::byte> bytes;
  for (const SavedLayout::Tensor& tensor : saved.tensors()) {
    const auto read_block = [&](const SavedLayout::BlockRows& rows) {
      bytes.resize(rows.bytes);
      Result<void> got = reader.read(bytes);
      if (!got.ok() || rows.block < arrival.cached / kBlockTokens) return got;  // those are shared, and the same
      std::byte* page = arrival.pages.slices[rows.slice][static_cast<std::size_t>(rows.block)];
      write_rows(rows.rows, bytes.data(), page + rows.offset);
      return got;
    };
    DALSEGNO_TRY(saved.for_blocks(tensor, read_block));
  }
  return reader.finish();
}

}  // namespace

std::map<std::string, std::string> key_metadata(const NumericsKey& key) {
  return {{"format", std::string(kKind)},
          {"format_version", std::string(kFormatVersion)},
          {"fingerprint", hex(key.fingerprint)},
          {"numerics_version", fmt::to_string(key.numerics_version)},
          {"activation_bits", fmt::to_string(key.activation_bits)},
          {"kv", name(key.kv.format)},
          {"kv_group_size", fmt::to_string(key.kv.group_size)},
          {"kv_start", fmt::to_string(key.kv.start)},
          {"max_kv", fmt::to_string(key.kv.max_size)},
          {"keep", fmt::to_string(key.kv.keep)}};
}

Result<void> save_cache(FileSystem& files, const std::string& path, LocalEngine& engine, const PromptCache& cache,
                        const std::string& attached) {
  const ProcessMemory::Use active = engine.memory().use();
  Result<HeldTables::Pages> held_pages = HeldTables::Pages{};
  if (cache.size() > 0) {
    engine.scheduler().with_held([&](HeldTables& held) { held_pages = held.pages(cache.state()->id); });
  }
  DALSEGNO_ASSIGN(pages, std::move(held_pages));
  const KvLayout& layout = engine.layout();
  const SavedLayout saved{&layout, cache.size(),
                          layout.slides() && cache.size() > 0 ? first_window_block(layout, pages, cache.size()) : 0};
  DALSEGNO_ASSIGN(text, engine.tokenizer().decode(cache.tokens()));
  const SafetensorsHeader header =
      header_of(engine.numerics_key(), saved, attached.size(), hex(sha256(std::as_bytes(std::span(text)))));
  const Buffers buffers = buffers_for(engine, header.bytes(), "saving a cache");
  DALSEGNO_ASSIGN(writer, SafetensorsWriter::create(files, path, header));
  DALSEGNO_TRY(writer.append(std::as_bytes(cache.tokens())));
  DALSEGNO_TRY(writer.append(std::as_bytes(std::span(attached))));
  std::vector<std::byte> bytes;
  for (const SavedLayout::Tensor& tensor : saved.tensors()) {
    const auto write_block = [&](const SavedLayout::BlockRows& rows) {
      bytes.resize(rows.bytes);
      const std::byte* page = pages.slices[rows.slice][static_cast<std::size_t>(rows.block)];
      read_rows(rows.rows, page + rows.offset, bytes.data());
      return writer.append(bytes);
    };
    DALSEGNO_TRY(saved.for_blocks(tensor, write_block));
  }
  return writer.commit();
}

Result<SavedCache> load_cache(FileSystem& files, const std::string& path, Engine& any_engine, const std::string& salt,
                              HeldTables::Keep keep) {
  auto& engine = dynamic_cast<LocalEngine&>(any_engine);
  const ProcessMemory::Use active = engine.memory().use();
  DALSEGNO_ASSIGN(reader, SafetensorsReader::open(files, path));
  const Buffers buffers = buffers_for(engine, reader.header().bytes(), "loading a cache");
  DALSEGNO_TRY(check_key(path, reader.header(), engine.numerics_key()));
  DALSEGNO_ASSIGN(contents, read_beginning(reader, path, engine, engine.layout()));
  if (contents.tokens.empty()) {
    DALSEGNO_TRY(reader.finish());
    return SavedCache{{}, std::move(contents.attached)};
  }
  Scheduler& scheduler = engine.scheduler();
  const std::uint64_t id = engine.next_held();
  const std::vector<TokenId>& tokens = contents.tokens;
  std::optional<Result<HeldTables::Arrival>> begun;
  scheduler.with_held([&](HeldTables& held) {
    begun = held.begin(id, scheduler.name_space(salt), tokens, contents.layout.window_block, keep);
  });
  DALSEGNO_TRY(*begun);
  Result<void> done = read_pages(reader, contents.layout, begun->value());
  scheduler.with_held([&](HeldTables& held) {
    if (done.ok()) {
      done = held.end(id, tokens, keep);
    } else {
      held.abandon(id);
    }
  });
  DALSEGNO_TRY(std::move(done));
  PromptCache cache(std::make_shared<const PromptCache::State>(engine, id, salt, std::move(contents.tokens)));
  return SavedCache{std::move(cache), std::move(contents.attached)};
}

}  // namespace dalsegno
