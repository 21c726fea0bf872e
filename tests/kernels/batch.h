// A ragged batch over several sequences whose pages lie shuffled in the caches.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/paged.h"
#include "tests/kernels/support.h"

namespace longshore::kernels {

class Batch {
 public:
  // Sequence b has lengths[b] positions; its last new_tokens[b] are the batch's tokens.
  Batch(Random& random, const std::vector<int32_t>& lengths,
        const std::vector<int32_t>& new_tokens) {
    width_ =
        (*std::max_element(lengths.begin(), lengths.end()) + kPageTokens - 1) / kPageTokens + 1;
    sequences_ = static_cast<int64_t>(lengths.size());
    pages_ = sequences_ * width_;
    std::vector<int32_t> order(static_cast<size_t>(pages_));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random.engine);
    table_.assign(static_cast<size_t>(pages_), -1);
    for (size_t b = 0; b < lengths.size(); ++b) {
      for (int64_t p = 0; p * kPageTokens < lengths[b]; ++p) {
        const size_t entry = b * static_cast<size_t>(width_) + static_cast<size_t>(p);
        table_[entry] = order[entry];
      }
      for (int32_t i = lengths[b] - new_tokens[b]; i < lengths[b]; ++i) {
        positions_.push_back(i);
        sequence_of_.push_back(static_cast<int32_t>(b));
      }
    }
  }

  [[nodiscard]] BatchView view() const {
    return {.tokens = tokens(),
            .sequences = sequences_,
            .positions = positions_.data(),
            .sequence_of = sequence_of_.data(),
            .page_table = table_.data(),
            .page_table_width = width_};
  }
  [[nodiscard]] int64_t tokens() const { return static_cast<int64_t>(positions_.size()); }
  [[nodiscard]] int64_t pages() const { return pages_; }
  [[nodiscard]] int32_t position(int64_t t) const { return positions_[static_cast<size_t>(t)]; }
  [[nodiscard]] int32_t page(int64_t t, int64_t position) const {
    return view().page(sequence_of_[static_cast<size_t>(t)], position);
  }

 private:
  int64_t width_ = 0;
  int64_t sequences_ = 0;
  int64_t pages_ = 0;
  std::vector<int32_t> positions_;
  std::vector<int32_t> sequence_of_;
  std::vector<int32_t> table_;
};

}  // namespace longshore::kernels
