// Going over gigabytes in parallel, with progress and cancellation.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "base/topology.h"
#include "checkpoint/checkpoint.h"

namespace longshore {

// A piece of one of several long ranges.
struct Piece {
  size_t range = 0;
  int64_t begin = 0;  // bytes from the range's start
  int64_t bytes = 0;
  int node = 0;  // whose threads touch it first, and so whose memory it gets
};

// A matrix that lies in one of the ranges.
struct Matrix {
  size_t range = 0;
  int64_t begin = 0;  // bytes from the range's start
  int64_t rows = 0;
  int64_t row_bytes = 0;
};
// Appends the tensor that begins at byte `begin` of the range, if it is a matrix of several pages.
void append_matrix(const TensorInfo& tensor, size_t range, int64_t begin,
                   std::vector<Matrix>& matrices);

// Cuts ranges of these sizes into pieces of at most `piece` bytes.
std::vector<Piece> cut(const std::vector<int64_t>& sizes, int64_t piece);

// The same with every matrix's rows on the nodes that row_bound() says, as near as whole 2 MB pages
// allow: a page goes where its middle belongs, what is no matrix where the matrix before it ends.
// matrices: ascending by range and begin. Pieces come by node, ascending.
std::vector<Piece> cut_for_nodes(const std::vector<int64_t>& sizes,
                                 const std::vector<Matrix>& matrices, int64_t piece, int nodes);

// Calls body on every piece, each on one of `threads` threads, in no particular order; with a
// topology of several nodes on one that is bound to the piece's node while such are free. pieces:
// by node, ascending, of at most min(threads, topology.size()) nodes. Stops at the first error or
// when cancelled (kCancelled, naming `what`). progress, which may be empty, is called on the
// caller's thread.
Result<void> for_each_piece(const std::vector<Piece>& pieces, int threads, const Topology& topology,
                            const LoadProgress& progress, const CancelToken& cancel,
                            const char* what,
                            const std::function<Result<void>(const Piece&)>& body);

}  // namespace longshore
