#include "kernels/cpu/backend.h"

#include <algorithm>

#include <cpuid.h>
#include <fmt/format.h>

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
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bf16");
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cpu_backend(ThreadPool& pool, std::string_view isa) {
  __builtin_cpu_init();
  const cpu::KernelTable* table = nullptr;
  if (isa == "avx512" || (isa == "auto" && runs_avx512())) {
    if (!runs_avx512()) {
      return fail(ErrorKind::kUsage,
                  "instruction set avx512 (F, BW, DQ, VL, VBMI and BF16) is not available on this "
                  "machine: choose auto");
    }
    table = &cpu::avx512::kTable;
  } else if (isa == "avx2" || (isa == "auto" && runs_avx2())) {
    if (!runs_avx2()) {
      return fail(ErrorKind::kUsage,
                  "instruction set avx2 (with FMA and F16C) is not available on this machine: "
                  "choose auto");
    }
    table = &cpu::avx2::kTable;
  } else if (isa == "generic" || isa == "auto") {
    table = &cpu::generic::kTable;
  } else {
    return fail(ErrorKind::kUsage,
                "instruction set '{}' is unknown: choose auto, generic, avx2 or avx512", isa);
  }
  return std::make_unique<cpu::CpuBackend>(pool, *table);
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

void CpuBackend::run_tile(Worker& worker, const Tile& tile, const void* const* inputs, bool pairs,
                          const MatrixView& y, int64_t first, int64_t count, StoreMode mode) {
  auto* out = worker.tile.get_as<float>(count * kTileRows);
  table_.tile_product(tile, {inputs + first, count, pairs}, out);
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
  const InputForm form = input_form(table_, p.w);
  const void* const* inputs = inputs_.rows(pool_, table_, form);
  const StoreMode mode = p.accumulate ? StoreMode::kAddF32 : store_mode(p.y.dtype);

  const int64_t height = tile_rows(tokens);
  const int64_t tiles = ceil_div(p.w.out, height);
  const int64_t blocks = ceil_div(tokens, kTokenBlock);
  const int64_t work = height * p.w.in * std::min(tokens, kTokenBlock);
  pool_.parallel_for(tiles * blocks, grain_of(work), [&](int64_t begin, int64_t end, int worker) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row = item % tiles * height;
      const int64_t rows = std::min(height, p.w.out - row);
      const int64_t first = item / tiles * kTokenBlock;
      run_tile(workers_[static_cast<size_t>(worker)], weight_tile(p.w, row, rows), inputs,
               form.pairs, p.y.slice_cols(row, rows), first, std::min(kTokenBlock, tokens - first),
               mode);
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
          run_tile(workers_[static_cast<size_t>(worker)], weight_tile(p.w, head * out + row, rows),
                   inputs + head * tokens, form.pairs,
                   p.y.slice_cols(head * p.y_head_stride + row, rows), first,
                   std::min(kTokenBlock, tokens - first), store_mode(p.y.dtype));
        }
      });
}

}  // namespace cpu
}  // namespace longshore::kernels
