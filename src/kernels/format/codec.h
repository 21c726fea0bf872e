// How a codec function is declared.
//
// Codecs are forced inline so that a file compiled for one instruction set never lends its copy of
// a function to the rest of the program (the linker keeps one copy of an ordinary inline function,
// whichever it meets first).
#pragma once

#if defined(__CUDACC__) || defined(__HIPCC__)
#define LS_CODEC __host__ __device__ __forceinline__ constexpr
#else
#define LS_CODEC [[gnu::always_inline]] inline constexpr
#endif
