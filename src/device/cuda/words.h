// Stream memory operations: a stream waits for a word of mapped host memory, or writes one, without
// a kernel. Both may be captured.
#pragma once

#include <cstdint>

#include "device/cuda/context.h"

namespace longshore::device::cuda {

// The stream goes on when *word - value >= 0, cyclically. Faults are the context's.
void wait_for_word(Context& context, cudaStream_t stream, const int32_t* word, int32_t value);
// *word = value, after everything that the stream was given before. false: refused, and the
// context's fault.
[[nodiscard]] bool write_word(Context& context, cudaStream_t stream, int32_t* word, int32_t value);

}  // namespace longshore::device::cuda
