// What the machine can do, measured: memory read bandwidth and fp32 arithmetic.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "base/threads.h"

namespace longshore::bench {

// GB/s that all threads of the pool read with plain loads over a buffer of 8 GB or a third of the free memory, whichever is
// less. Median of 5 passes. kMemory.
Result<double> dram_read_gbs(ThreadPool& pool);

// GFLOP/s of fused multiply-adds on registers, widest instruction set of this machine, all threads.
double fma_gflops(ThreadPool& pool);

}  // namespace longshore::bench
