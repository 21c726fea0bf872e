#include "checkpoint/bulk.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <utility>

#include "base/threads.h"

namespace longshore {
namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(50);

}  // namespace

std::vector<Piece> cut(const std::vector<int64_t>& sizes, int64_t piece) {
  std::vector<Piece> pieces;
  for (size_t range = 0; range < sizes.size(); ++range) {
    for (int64_t begin = 0; begin < sizes[range]; begin += piece) {
      pieces.push_back({range, begin, std::min(piece, sizes[range] - begin)});
    }
  }
  return pieces;
}

Result<void> for_each_piece(const std::vector<Piece>& pieces, int threads,
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

  ThreadPool pool(threads);
  pool.parallel_for(static_cast<int64_t>(pieces.size()), 1,
                    [&](int64_t begin, int64_t end, int worker) {
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
                        if (worker != 0 || !progress || now - last_report < kProgressInterval)
                          continue;
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
