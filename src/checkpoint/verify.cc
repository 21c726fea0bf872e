// Reading every byte of a checkpoint.
#include <algorithm>
#include <functional>
#include <mutex>
#include <optional>

#include "base/threads.h"
#include "checkpoint/bulk.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/impl.h"
#include "checkpoint/json.h"
#include "checkpoint/layout.h"
#include "checkpoint/numbers.h"

namespace longshore {
namespace {

// A multiple of every element's size.
constexpr int64_t kPiece = int64_t{4} << 20;

std::string not_finite(const TensorInfo& tensor, int64_t element) {
  const std::string place =
      tensor.shape.size() == 2
          ? fmt::format("[{}, {}]", element / tensor.shape[1], element % tensor.shape[1])
          : std::to_string(element);
  const char* what = tensor.name.ends_with(kScaleSuffix) ? "the scale of block" : "element";
  return fmt::format("{}: tensor {}: {} {} is not finite; download the checkpoint again",
                     tensor.file, printable(tensor.name), what, place);
}

}  // namespace

Result<Checkpoint::Verification> Checkpoint::verify(const LoadProgress& progress,
                                                    const CancelToken& cancel) const {
  Verification verification;
  verification.problems = check_layout(&verification.unused);
  const std::vector<TensorInfo>& tensors = impl_->tensors;
  std::vector<int64_t> sizes;
  for (const TensorInfo& tensor : tensors) sizes.push_back(tensor.bytes);
  std::mutex mutex;
  std::vector<std::optional<int64_t>> first_bad(tensors.size());  // element
  const auto scan = [&](const Piece& piece) -> Result<void> {
    const TensorInfo& tensor = tensors[piece.range];
    LS_TRY_VOID(populate(tensor, piece.begin, piece.bytes));
    const int64_t element = dtype_size(tensor.dtype);
    const auto bad =
        find_not_finite(tensor.data + piece.begin, tensor.dtype, piece.bytes / element);
    if (!bad) return {};
    const std::lock_guard lock(mutex);
    std::optional<int64_t>& first = first_bad[piece.range];
    const int64_t place = piece.begin / element + *bad;
    first = std::min(first.value_or(place), place);
    return {};
  };
  LS_TRY_VOID(for_each_piece(cut(sizes, kPiece), available_cpus(), one_node({0}), progress, cancel,
                             "verifying the model", scan));
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (first_bad[i]) verification.problems.push_back(not_finite(tensors[i], *first_bad[i]));
  }
  return verification;
}

Result<void> Checkpoint::populate(const TensorInfo& tensor, int64_t begin, int64_t bytes) const {
  for (const Mapping& mapping : impl_->mappings) {
    const std::less_equal<const std::byte*> before;
    if (!before(mapping.data(), tensor.data) ||
        !before(tensor.data + tensor.bytes, mapping.data() + mapping.bytes())) {
      continue;
    }
    auto result = mapping.populate(tensor.data + begin - mapping.data(), bytes);
    if (result) return {};
    return fail(ErrorKind::kIo, "{}: {}; check the disk", tensor.file, result.error().message);
  }
  LS_FAIL("tensor {} lies in no mapping", tensor.name);
}

}  // namespace longshore
