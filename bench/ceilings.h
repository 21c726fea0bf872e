// What the machine can do, measured: memory read bandwidth, fp32 and bf16 arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/cancel.h"
#include "base/error.h"
#include "base/threads.h"

namespace longshore::bench {

// GB/s that all threads of the pool read with plain loads over a buffer of 8 GB or a third of the
// free memory, whichever is less. Median of 5 passes. kMemory, kCancelled.
Result<double> dram_read_gbs(ThreadPool& pool, const CancelToken& cancel);

// The width of these loads: the widest of this machine.
[[nodiscard]] int load_bits();

// Reads data [bytes] once with plain vector loads, all threads of the pool. bytes is a multiple of
// 1 MB.
void read_once(ThreadPool& pool, const std::byte* data, int64_t bytes);

// GFLOP/s of fused multiply-adds on registers, widest instruction set of this machine, all threads.
double fma_gflops(ThreadPool& pool);

// The best of this machine for products of bf16 with fp32 sums: AMX tiles, else AVX-512 dot
// products of pairs, else fp32 multiply-adds; operands in registers, all threads.
struct Bf16Peak {
  const char* unit = "";  // "AMX", "AVX-512 BF16" or "fp32 FMA"
  double gflops = 0;
  // AMX with nothing but zeros for operands, which take less power: no bound of products that
  // compute anything, but what others quote as the peak. 0: not measured.
  double zeros_gflops = 0;
};
Bf16Peak bf16_peak(ThreadPool& pool);

}  // namespace longshore::bench
