#include "dalsegno/diagnostics.hpp"
#include "kernels/kernels.hpp"

namespace dalsegno {

Result<CpuLevels> cpu_levels() {
  DALSEGNO_ASSIGN(chosen, chosen_kernels());
  CpuLevels levels;
  for (const Kernels* kernels : available_kernels()) levels.available.emplace_back(kernels->name);
  levels.chosen = chosen->name;
  return levels;
}

}  // namespace dalsegno
