#include "checkpoint/bulk.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/threads.h"

namespace longshore {
namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(50);
constexpr int64_t kPage = int64_t{2} << 20;

// From `begin` of the range on, bytes belong to `node`.
struct Change {
  size_t range;
  int64_t begin;
  int node;
};

std::vector<Change> changes(const std::vector<Matrix>& matrices, int nodes) {
  std::vector<Change> changes;
  for (const Matrix& matrix : matrices) {
    for (int node = 0; node < nodes; ++node) {
      const int64_t row = row_bound(matrix.rows, node, nodes);
      if (row == row_bound(matrix.rows, node + 1, nodes)) continue;
      changes.push_back({matrix.range, matrix.begin + row * matrix.row_bytes, node});
    }
  }
  return changes;
}

// Appends [begin, end) of the range in pieces of at most `most` bytes.
void append(size_t range, int64_t begin, int64_t end, int64_t most, int node,
            std::vector<Piece>& pieces) {
  for (; begin < end; begin += most) {
    pieces.push_back({range, begin, std::min(most, end - begin), node});
  }
}

// Bounds of the pieces of each node, [nodes + 1].
std::vector<int64_t> node_bounds(const std::vector<Piece>& pieces, int nodes) {
  std::vector<int64_t> bounds(static_cast<size_t>(nodes) + 1, 0);
  for (size_t i = 0; i < pieces.size(); ++i) {
    LS_CHECK(pieces[i].node >= 0 && pieces[i].node < nodes);
    LS_CHECK(i == 0 || pieces[i - 1].node <= pieces[i].node);
    ++bounds[static_cast<size_t>(pieces[i].node) + 1];
  }
  for (size_t n = 1; n < bounds.size(); ++n) bounds[n] += bounds[n - 1];
  return bounds;
}

}  // namespace

void append_matrix(const TensorInfo& tensor, size_t range, int64_t begin,
                   std::vector<Matrix>& matrices) {
  if (tensor.shape.size() != 2 || tensor.bytes < 2 * kPage) return;
  matrices.push_back({range, begin, tensor.shape[0], tensor.bytes / tensor.shape[0]});
}

std::vector<Piece> cut(const std::vector<int64_t>& sizes, int64_t piece) {
  std::vector<Piece> pieces;
  for (size_t range = 0; range < sizes.size(); ++range) {
    append(range, 0, sizes[range], piece, 0, pieces);
  }
  return pieces;
}

std::vector<Piece> cut_for_nodes(const std::vector<int64_t>& sizes,
                                 const std::vector<Matrix>& matrices, int64_t piece, int nodes) {
  if (nodes == 1) return cut(sizes, piece);
  LS_CHECK(piece % kPage == 0);
  const std::vector<Change> all = changes(matrices, nodes);
  auto change = all.begin();
  std::vector<Piece> pieces;
  for (size_t range = 0; range < sizes.size(); ++range) {
    int node = 0;
    int64_t begin = 0;  // of the run of pages of one node
    for (int64_t page = 0; page < sizes[range]; page += kPage) {
      int here = node;
      for (; change != all.end() && change->range == range && change->begin <= page + kPage / 2;
           ++change) {
        here = change->node;
      }
      if (here == node) continue;
      append(range, begin, page, piece, node, pieces);
      begin = page;
      node = here;
    }
    append(range, begin, sizes[range], piece, node, pieces);
    while (change != all.end() && change->range == range) ++change;
  }
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece& a, const Piece& b) { return a.node < b.node; });
  return pieces;
}

Result<void> for_each_piece(const std::vector<Piece>& pieces, int threads, const Topology& topology,
                            const LoadProgress& progress, const CancelToken& cancel,
                            const char* what,
                            const std::function<Result<void>(const Piece&)>& body) {
  int64_t total = 0;
  for (const Piece& piece : pieces) total += piece.bytes;
  std::atomic<int64_t> done{0};
  std::atomic<bool> stop{false};
  std::mutex mutex;
  std::optional<Error> error;
  auto last_report = std::chrono::steady_clock::now();

  std::optional<ThreadPool> pool;
  if (topology.size() > 1) {
    pool.emplace(threads, topology);
  } else {
    pool.emplace(threads);
  }
  pool->parallel_for_nodes(
      node_bounds(pieces, pool->nodes()), 1, [&](int64_t begin, int64_t end, int worker) {
        for (int64_t i = begin; i < end; ++i) {
          if (stop.load(std::memory_order_relaxed) || cancel.cancelled()) return;
          const Piece& piece = pieces[static_cast<size_t>(i)];
          if (auto result = body(piece); !result) {
            stop = true;
            const std::lock_guard lock(mutex);
            if (!error) error = std::move(result).error();
            return;
          }
          const int64_t so_far = done.fetch_add(piece.bytes) + piece.bytes;
          const auto now = std::chrono::steady_clock::now();
          if (worker != 0 || !progress || now - last_report < kProgressInterval) continue;
          last_report = now;
          progress(so_far, total);
        }
      });
  if (error) return tl::unexpected<Error>(std::move(*error));
  if (cancel.cancelled()) return fail(ErrorKind::kCancelled, "{} was cancelled", what);
  if (progress) progress(total, total);
  return {};
}

}  // namespace longshore
