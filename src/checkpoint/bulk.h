// Going over gigabytes in parallel, with progress and cancellation.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "checkpoint/checkpoint.h"

namespace longshore {

// A piece of one of several long ranges.
struct Piece {
  size_t range = 0;
  int64_t begin = 0;  // bytes from the range's start
  int64_t bytes = 0;
};

// Cuts ranges of these sizes into pieces of at most `piece` bytes.
std::vector<Piece> cut(const std::vector<int64_t>& sizes, int64_t piece);

// Calls body on every piece, each on one of `threads` threads, in no particular order. Stops at the
// first error or when cancelled (kCancelled, naming `what`). progress, which may be empty, is
// called on the caller's thread.
Result<void> for_each_piece(const std::vector<Piece>& pieces, int threads,
                            const LoadProgress& progress, const CancelToken& cancel,
                            const char* what,
                            const std::function<Result<void>(const Piece&)>& body);

}  // namespace longshore
