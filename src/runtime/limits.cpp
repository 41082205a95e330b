#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <string_view>
#include <thread>

#include "base/thread_pool.hpp"
#include "dalsegno/diagnostics.hpp"
#include "gguf/gguf.hpp"
#include "kernels/kernels.hpp"
#include "model/config.hpp"
#include "model/kv_layout.hpp"
#include "tensor/kv_view.hpp"
#include "tensor/packing.hpp"

namespace dalsegno {
namespace {

using Clock = std::chrono::steady_clock;

// Operations per second of one function of the table on all threads of the pool.
double best_rate(ThreadPool& pool, std::uint64_t (*peak)(int rounds), double seconds) {
  constexpr double kTry = 2e-3;  // seconds: short enough that some try is not interrupted
  int rounds = 1024;
  double best = 0;
  for (const auto start = Clock::now(); std::chrono::duration<double>(Clock::now() - start).count() < seconds;) {
    std::atomic<std::uint64_t> operations = 0;
    const auto begin = Clock::now();
    pool.run([&](int, int) { operations += peak(rounds); });
    const double took = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, static_cast<double>(operations) / took);
    if (took < kTry) rounds = std::min(2 * rounds, kMostPeakRounds);
  }
  return best;
}

void add(Operations& sum, const GgufTensor& tensor, int activation_bits) {
  const double operations = 2.0 * static_cast<double>(tensor.dims[0]) * static_cast<double>(tensor.dims[1]);
  if (is_float(packed_format(tensor.type))) {
    sum.bf16 += operations;
  } else {
    sum.int8 += operations * activation_bits / 8;
  }
}

// True for what follows the last layer's keys and values: rows without logits do without it.
bool after_last_keys(std::string_view tensor, int layers) {
  const std::string last = "blk." + std::to_string(layers - 1) + ".";
  if (!tensor.starts_with(last)) return false;
  tensor.remove_prefix(last.size());
  return tensor != "attn_q.weight" && tensor != "attn_k.weight" && tensor != "attn_v.weight";
}

}  // namespace

Result<MachinePeak> measure_peak(int threads, double seconds) {
  DALSEGNO_ASSIGN(kernels, chosen_kernels());
  ThreadPool pool(threads > 0 ? threads : static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  return MachinePeak{.int8 = best_rate(pool, kernels->peak_int8, seconds / 2),
                     .bf16 = best_rate(pool, kernels->peak_bf16, seconds / 2)};
}

Result<ModelCost> model_cost(const std::string& model_path, const KvOptions& wanted, int activation_bits) {
  DALSEGNO_ASSIGN(file, GgufFile::open(model_path));
  DALSEGNO_ASSIGN(config, read_config(*file));
  ModelCost cost;
  cost.file_bytes = static_cast<double>(file->file_bytes());
  DALSEGNO_ASSIGN(kv, kv_options(config, wanted));
  const KvLayout layout = kv_layout(config, kv);
  cost.kv_bytes = static_cast<double>(layout.block_bytes()) / kBlockTokens;
  // q times k and p times v, a multiply-add each per head and dimension.
  cost.attention_operations = 4.0 * config.layers * config.heads * config.head_dim;
  cost.window = config.sliding_window;
  cost.windowed_share = static_cast<double>(config.windowed_layers()) / config.layers;
  for (const GgufTensor& tensor : file->tensors()) {
    if (tensor.dims.size() != 2) continue;
    const bool embedding = tensor.name == "token_embd.weight";
    if (embedding && !config.tied_output) continue;
    cost.weight_bytes += static_cast<double>(
        packed_bytes(packed_format(tensor.type), static_cast<int>(tensor.dims[1]), static_cast<int>(tensor.dims[0])));
    const bool for_logits = embedding || tensor.name == "output.weight" || after_last_keys(tensor.name, config.layers);
    add(for_logits ? cost.head : cost.layers, tensor, activation_bits);
  }
  return cost;
}

}  // namespace dalsegno
