#include "kernels/cpu/backend.h"

#include <algorithm>

#include <cpuid.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/scalar/ops.h"
#include "kernels/validate.h"

namespace longshore::kernels {
namespace {

// Not every compiler's __builtin_cpu_supports knows F16C.
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// These match the flags in CMakeLists.txt.
bool runs_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}
bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi");
}
bool runs_avx512bf16() {
  return runs_avx512() && __builtin_cpu_supports("avx512bf16");
}

// Linux gives a process the state of AMX's tiles only when asked
// (Documentation/arch/x86/xstate.rst).
bool may_use_tiles() {
  constexpr int kAskPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;           // XFEATURE_XTILE_DATA
  return syscall(SYS_arch_prctl, kAskPermission, kTileData) == 0;
}
bool runs_amx() {
  constexpr unsigned kAmxBf16 = 1u << 22;
  constexpr unsigned kAmxTile = 1u << 24;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return runs_avx512bf16() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
         (edx & kAmxBf16) != 0 && (edx & kAmxTile) != 0 && may_use_tiles();
}

// Best first.
struct Isa {
  std::string_view name;
  bool (*runs)();
  const char* needs;
  const cpu::KernelTable* table;
};
const Isa kIsas[] = {
    {"amx", runs_amx, "AMX tiles of bf16 and all that avx512bf16 needs, given by the kernel",
     &cpu::amx::kTable},
    {"avx512bf16", runs_avx512bf16, "AVX-512 F, BW, DQ, VL, VBMI and BF16",
     &cpu::avx512bf16::kTable},
    {"avx512", runs_avx512, "AVX-512 F, BW, DQ, VL and VBMI", &cpu::avx512::kTable},
    {"avx2", runs_avx2, "AVX2, FMA and F16C", &cpu::avx2::kTable},
    {"generic", [] { return true; }, "x86-64", &cpu::generic::kTable},
};

}  // namespace

Result<std::unique_ptr<Backend>> make_cpu_backend(ThreadPool& pool, std::string_view isa) {
  __builtin_cpu_init();
  for (const Isa& candidate : kIsas) {
    if (isa == "auto" ? candidate.runs() : isa == candidate.name) {
      if (candidate.runs()) return std::make_unique<cpu::CpuBackend>(pool, *candidate.table);
      return fail(ErrorKind::kUsage,
                  "instruction set {} ({}) is not available on this machine: choose auto", isa,
                  candidate.needs);
    }
  }
  return fail(ErrorKind::kUsage, "instruction set '{}' is unknown: choose auto, {}", isa,
              cpu_isa_names());
}

std::string cpu_isa_names() {
  std::string names;
  for (const Isa& isa : kIsas) names += fmt::format("{}{}", names.empty() ? "" : ", ", isa.name);
  return names;
}

namespace cpu {
namespace {

StoreMode store_mode(DType dtype) {
  return dtype == DType::kBF16 ? StoreMode::kBF16 : StoreMode::kF32;
}

}  // namespace

CpuBackend::CpuBackend(ThreadPool& pool, const KernelTable& table)
    : pool_(pool),
      table_(table),
      name_(fmt::format("cpu-{}", table.name)),
      workers_(static_cast<size_t>(pool.size())) {}

void CpuBackend::embed(const EmbedParams& p) {
  validate(p);
  scalar::embed(pool_, p);
}

void CpuBackend::gather_rows(const GatherRowsParams& p) {
  validate(p);
  scalar::gather_rows(pool_, p);
}

void CpuBackend::rope(const RopeParams& p) {
  validate(p);
  scalar::rope(pool_, p);
}

void CpuBackend::rms_norm(const RmsNormParams& p) {
  validate(p);
  pool_.parallel_for(p.x.rows, grain_of(p.x.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      table_.rms_norm(p.x.row_as<float>(t), p.weight, p.eps, p.x.cols, store_mode(p.y.dtype),
                      p.y.row(t));
    }
  });
}

void CpuBackend::silu_mul(const SiluMulParams& p) {
  validate(p);
  pool_.parallel_for(p.y.rows, grain_of(p.y.cols * 4), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      table_.silu_mul(p.gate.row_as<float>(t), p.up.row_as<float>(t), p.y.cols,
                      store_mode(p.y.dtype), p.y.row(t));
    }
  });
}

void CpuBackend::run_tile(Worker& worker, const Tile& tile, const void* const* inputs,
                          const MatrixView& y, int64_t first, int64_t count, StoreMode mode) {
  auto* out = worker.tile.get_as<float>(count * kTileRows);
  table_.tile_product(tile, {inputs + first, count}, out);
  worker.targets.resize(static_cast<size_t>(count));
  for (int64_t t = 0; t < count; ++t) worker.targets[static_cast<size_t>(t)] = y.row(first + t);
  table_.store_tile(out, count, tile.count, mode, worker.targets.data());
}

void CpuBackend::linear(const LinearParams& p) {
  validate(p);
  const int64_t tokens = p.x.rows;
  if (tokens == 0) return;
  sources_.resize(static_cast<size_t>(tokens));
  for (int64_t t = 0; t < tokens; ++t) sources_[static_cast<size_t>(t)] = p.x.row(t);
  inputs_.set(sources_, p.x.dtype, p.x.cols);
  if (use_panels(table_, p.w, tokens)) return linear_panels(p);
  const InputForm form = input_form(table_, p.w);
  const void* const* inputs = inputs_.rows(pool_, table_, form);
  const StoreMode mode = p.accumulate ? StoreMode::kAddF32 : store_mode(p.y.dtype);

  const int64_t height = tile_rows(tokens);
  const int64_t work = height * p.w.in * std::min(tokens, kTokenBlock);
  const RowItems items(pool_, p.w.out, height, ceil_div(tokens, kTokenBlock));
  pool_.parallel_for_nodes(
      items.bounds(), grain_of(work), [&](int64_t begin, int64_t end, int worker) {
        for (int64_t i = begin; i < end; ++i) {
          const auto [row, rows, block] = items.at(i);
          const int64_t first = block * kTokenBlock;
          const void* next = row + rows < p.w.out ? p.w.row(row + rows) : nullptr;
          run_tile(workers_[static_cast<size_t>(worker)], weight_tile(p.w, row, rows, next), inputs,
                   p.y.slice_cols(row, rows), first, std::min(kTokenBlock, tokens - first), mode);
        }
      });
}

// inputs_ holds the rows of x.
void CpuBackend::linear_panels(const LinearParams& p) {
  const int64_t tokens = p.x.rows;
  const InputForm form = input_form(table_, p.w);
  const void* const* inputs = inputs_.rows(pool_, table_, form);
  panel_spans_.clear();
  append_panels(0, tokens, panel_spans_);
  panels_.pack(pool_, table_, form, p.x.cols, panel_spans_, [&](int64_t i) { return inputs[i]; });
  const StoreMode mode = p.accumulate ? StoreMode::kAddF32 : store_mode(p.y.dtype);

  const auto panels = static_cast<int64_t>(panel_spans_.size());
  const int64_t blocks = ceil_div(panels, kPanelBlock);
  const int64_t height = kTileRows * (panels >= kManyPanels ? kMostTiles : 1);
  const RowItems items(pool_, p.w.out, height, blocks);
  pool_.parallel_for_nodes(items.bounds(), 1, [&](int64_t begin, int64_t end, int w) {
    Worker& worker = workers_[static_cast<size_t>(w)];
    for (int64_t i = begin; i < end; ++i) {
      const auto [row, rows, block] = items.at(i);
      const int64_t first = panels * block / blocks;
      const int64_t count = panels * (block + 1) / blocks - first;
      Tile tiles[kMostTiles];
      const void* next = row + rows < p.w.out ? p.w.row(row + rows) : nullptr;
      const int64_t number = weight_tiles(p.w, row, rows, next, tiles);
      auto* out = worker.tile.get_as<float>(number * count * kPanelInputs * kTileRows);
      table_.panel_product(tiles, number, panels_.panel(first), panels_.panel_bytes(), count, out);
      const int64_t first_token = first * kPanelInputs;
      store_tiles(worker, tiles, number, std::min(tokens - first_token, count * kPanelInputs),
                  count * kPanelInputs, mode, out,
                  [&](int64_t t) { return p.y.slice_cols(row, rows).row(first_token + t); });
    }
  });
}

void CpuBackend::head_linear(const HeadLinearParams& p) {
  validate(p);
  const int64_t tokens = p.x.rows;
  if (tokens == 0) return;
  sources_.resize(static_cast<size_t>(tokens * p.heads));
  for (int64_t i = 0; i < tokens * p.heads; ++i) {
    const int64_t column = i / tokens * p.x_head_stride;
    sources_[static_cast<size_t>(i)] = p.x.row(i % tokens) + column * dtype_size(p.x.dtype);
  }
  inputs_.set(sources_, p.x.dtype, p.w.in);
  const InputForm form = input_form(table_, p.w);
  const void* const* inputs = inputs_.rows(pool_, table_, form);

  const int64_t out = p.w.out / p.heads;
  const int64_t tiles = ceil_div(out, kTileRows);
  const int64_t blocks = ceil_div(tokens, kTokenBlock);
  const int64_t work = std::min<int64_t>(kTileRows, out) * p.w.in * std::min(tokens, kTokenBlock);
  pool_.parallel_for(
      p.heads * tiles * blocks, grain_of(work), [&](int64_t begin, int64_t end, int worker) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t head = item / (tiles * blocks);
          const int64_t row = item % tiles * kTileRows;
          const int64_t rows = std::min<int64_t>(kTileRows, out - row);
          const int64_t first = item / tiles % blocks * kTokenBlock;
          const int64_t end = head * out + row + rows;
          const void* next = end < p.w.out ? p.w.row(end) : nullptr;
          run_tile(workers_[static_cast<size_t>(worker)],
                   weight_tile(p.w, head * out + row, rows, next), inputs + head * tokens,
                   p.y.slice_cols(head * p.y_head_stride + row, rows), first,
                   std::min(kTokenBlock, tokens - first), store_mode(p.y.dtype));
        }
      });
}

}  // namespace cpu
}  // namespace longshore::kernels
