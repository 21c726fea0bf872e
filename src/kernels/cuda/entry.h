// The one symbol of liblongshore_cuda.so that the program looks up. Built by the same compiler from
// the same tree as the program: C++ types may cross.
#pragma once

#include "kernels/backend.h"

namespace longshore::kernels::cuda {

// The caller owns the backend. nullptr: `error` says why.
using CreateFunction = Backend* (*)(const CudaOptions& options, Error& error);
// Bears the version of this interface: a library from another build is not taken.
constexpr const char* kCreateSymbol = "longshore_cuda_create_3";

}  // namespace longshore::kernels::cuda
