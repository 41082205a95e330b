#include "runtime/fingerprint.hpp"

#include <fmt/format.h>
#include <openssl/sha.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "runtime/fingerprint_memory.hpp"

namespace dalsegno {
namespace {

constexpr std::size_t kPiece = 1U << 20;

struct Piece {
  const std::byte* data;
  std::size_t bytes;
};

Result<std::array<std::byte, 32>> hash_of(const GgufFile& file, const ModelConfig& config, ThreadPool& pool,
                                          const std::stop_token& cancel) {
  std::string table = fmt::format(
      "{} layers {} hidden {} ff {} heads {} kv {} dim {} vocab {} eps {:a} rope {} {:a} {:a} "
      "window {} {} {:a} scale {:a}\n",
      config.architecture, config.layers, config.hidden, config.feed_forward, config.heads, config.kv_heads,
      config.head_dim, config.vocabulary, config.norm_eps, config.rope_dims, config.rope_base,
      config.rope_position_scale, config.sliding_window, config.full_attention_every, config.window_rope_base,
      config.attention_scale);
  std::vector<Piece> pieces;
  for (const GgufTensor& tensor : file.tensors()) {
    table +=
        fmt::format("{} {} {} {}\n", tensor.name, traits(tensor.type).name, fmt::join(tensor.dims, "x"), tensor.bytes);
    for (std::size_t at = 0; at < tensor.bytes; at += kPiece)
      pieces.push_back({tensor.data + at, std::min<std::size_t>(kPiece, tensor.bytes - at)});
  }
  constexpr std::size_t kHash = SHA256_DIGEST_LENGTH;
  std::vector<unsigned char> hashes(kHash * (pieces.size() + 1));
  SHA256(reinterpret_cast<const unsigned char*>(table.data()), table.size(), hashes.data());
  std::atomic<std::size_t> next{0};
  pool.run([&](int, int) {
    for (std::size_t i; (i = next.fetch_add(1)) < pieces.size() && !cancel.stop_requested();) {
      SHA256(reinterpret_cast<const unsigned char*>(pieces[i].data), pieces[i].bytes, &hashes[kHash * (i + 1)]);
      file.forget({pieces[i].data, pieces[i].bytes});
    }
  });
  if (cancel.stop_requested()) return Error{ErrorCode::cancelled, "loading was cancelled"};
  std::array<std::byte, 32> result{};
  SHA256(hashes.data(), hashes.size(), reinterpret_cast<unsigned char*>(result.data()));
  return result;
}

}  // namespace

Result<std::array<std::byte, 32>> fingerprint(const GgufFile& file, const ModelConfig& config, ThreadPool& pool,
                                              const std::stop_token& cancel) {
  const FingerprintMemory memory;
  if (const auto remembered = memory.recall(file.identity())) return *remembered;
  DALSEGNO_ASSIGN(hash, hash_of(file, config, pool, cancel));
  memory.remember(file.identity(), hash);
  return hash;
}

}  // namespace dalsegno
