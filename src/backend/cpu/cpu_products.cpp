#include "backend/cpu/cpu_products.hpp"

#include <algorithm>

namespace dalsegno {
namespace {

// A unit of a product of more rows than streaming_rows() is one panel by some rows: what the last thread may be behind
// when the others are done. Of few rows small units: a product takes 50 us or so. Of many rows as many as find the
// panel in L1 in the end. Up to kFewestRows a unit is several panels, since starting on one costs 0.1 us.
constexpr int kFewRows = 96;
constexpr int kUnitRowsOfFew = 18;
constexpr int kUnitRows = 120;
constexpr int kFewestRows = 12;
constexpr int kUnitsOfFewest = 4;  // of each part
// Of few rows others leave a run's last unit to its own thread, which has fetched it already.
constexpr int kLeastLeft = 2;
constexpr int kTileRows = 12;  // a multiple of the tallest tile of every vector level
// From so many rows on, times the parts squared, each part multiplies the rows that it also norms, gates and attends
// for, by all panels: r rows of 4-bit weights take 75/r GB/s per core, so that all parts read less than 10 GB/s.
constexpr int kShareRows = 8;
// Logits of a unit: what its thread still has in L2 when it looks for values that are not finite.
constexpr std::size_t kLogitUnitBytes = 128U << 10;

// Panel `panel` of all parts, empty beyond the last.
std::span<const std::byte> panel_at(const CpuWeight& w, int panel) {
  for (const CpuWeight::Part& part : w.parts) {
    const PackedMatrix& matrix = part.matrix;
    if (panel < matrix.panels) {
      return {matrix.data + static_cast<std::size_t>(panel) * matrix.panel_bytes, matrix.panel_bytes};
    }
    panel -= matrix.panels;
  }
  return {};
}

// What a unit fetches: a share of the pages of the part whose run it is in.
Ahead of_unit(const Ahead& ahead, int parts, std::int64_t unit, int units) {
  const std::int64_t part = ((unit + 1) * parts - 1) / units;
  const std::int64_t begin = units * part / parts;
  const std::int64_t end = units * (part + 1) / parts;
  const std::int64_t each = ahead.count / parts;
  const std::int64_t first = each * (unit - begin) / (end - begin);
  Ahead share = ahead;
  share.pages += part + first * parts;
  share.stride = parts;
  share.count = static_cast<int>(each * (unit + 1 - begin) / (end - begin) - first);
  return share;
}

// Of block `block` of `blocks`: between many rows in whole tiles, since one of fewer rows costs more a row.
int first_row(int m, int block, int blocks) {
  const int row = m * block / blocks;
  return m <= kFewRows || block == blocks ? row : row / kTileRows * kTileRows;
}

GemmArgs all_rows(const CpuActivations& a, int m, int columns, bool add) {
  GemmArgs args;
  args.quant = a.quant;
  args.x = a.values;
  args.m = m;
  args.c_stride = static_cast<std::size_t>(columns);
  args.add = add;
  args.large_l1 = has_large_l1();
  return args;
}

}  // namespace

void CpuProducts::multiply_panels(GemmArgs args, const CpuWeight& w, const Output& y, int begin, int end) const {
  for (const CpuWeight::Part& part : w.parts) {
    const int panels = part.matrix.panels;
    if (begin < panels && end > 0) {
      args.w = &part.matrix;
      args.panel_begin = std::max(begin, 0);
      args.panel_end = std::min(end, panels);
      args.c = y.values + part.first_column;
      args.bias = y.bias != nullptr ? y.bias + part.first_column : nullptr;
      kernels_.gemm(args);
    }
    begin -= panels;
    end -= panels;
  }
}

void CpuProducts::multiply(const CpuActivations& a, int m, const CpuWeight& w, const Output& y, const Ahead& ahead) {
  const GemmArgs args = all_rows(a, m, y.columns, y.add);
  if (m <= streaming_rows()) {
    pool_.run([&](int part, int parts) {
      multiply_panels(args, w, y, w.panels * part / parts, w.panels * (part + 1) / parts);
    });
    return;
  }
  const int most = m <= kFewRows ? kUnitRowsOfFew : kUnitRows;
  const int parts = pool_.threads();
  const int shares = m >= kShareRows * parts * parts ? parts : 1;
  const int blocks = ((m + shares - 1) / shares + most - 1) / most;                           // of a share
  const int width = m <= kFewestRows ? std::max(1, w.panels / (kUnitsOfFewest * parts)) : 1;  // panels of a unit
  const int columns = (w.panels + width - 1) / width;
  const int units = shares * columns * blocks;
  const int least = m <= kFewRows ? kLeastLeft : 1;
  runs_.reset(units);
  pool_.run([&](int part, int) {
    for (int i; (i = runs_.take(part, least)) >= 0;) {
      const int panel = i / blocks % columns * width;
      const int end = std::min(panel + width, w.panels);
      const int block = i / blocks / columns * blocks + i % blocks;  // of all rows
      const int first = first_row(m, block, shares * blocks);
      GemmArgs unit = args;
      unit.m = first_row(m, block + 1, shares * blocks) - first;
      if (m <= kFewRows && i % blocks + 1 == blocks) unit.after = panel_at(w, end);
      unit.ahead = of_unit(ahead, parts, i, units);
      unit.quant = a.quant.from(first);
      unit.x = a.values + static_cast<std::size_t>(first) * static_cast<std::size_t>(a.columns);
      Output out = y;
      out.values += static_cast<std::size_t>(first) * static_cast<std::size_t>(y.columns);
      multiply_panels(unit, w, out, panel, end);
    }
  });
}

void CpuProducts::multiply_head(const CpuActivations& a, int m, const CpuWeight& w, float* logits,
                                std::span<std::atomic<bool>> finite) {
  const GemmArgs args = all_rows(a, m, w.n, false);
  for (int i = 0; i < m; ++i) finite[static_cast<std::size_t>(i)] = true;
  const std::size_t panel_bytes = static_cast<std::size_t>(m) * kPanelColumns * sizeof(float);
  const int most = std::max(1, static_cast<int>(kLogitUnitBytes / panel_bytes));
  const int parts = pool_.threads();
  const int units = (std::max(parts, (w.panels + most - 1) / most) + parts - 1) / parts * parts;  // as many for each
  const auto bounds = [&](std::int64_t unit) { return static_cast<int>(w.panels * unit / units); };
  runs_.reset(units);
  pool_.run([&](int part, int) {
    for (int unit; (unit = runs_.take(part)) >= 0;) {
      const int begin = bounds(unit);
      const int end = bounds(unit + 1);
      multiply_panels(args, w, {.values = logits}, begin, end);
      const int first = begin * kPanelColumns;
      const int columns = std::min(end * kPanelColumns, w.n) - first;
      for (int i = 0; i < m && columns > 0; ++i) {
        const float* row = logits + static_cast<std::size_t>(i) * static_cast<std::size_t>(w.n) + first;
        if (!kernels_.all_finite(row, columns)) finite[static_cast<std::size_t>(i)] = false;
      }
    }
  });
}

}  // namespace dalsegno
