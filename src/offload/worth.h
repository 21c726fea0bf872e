// Which resident expert is worth least: recency and frequency in one number.
//
// Every use of an expert counts 1 and fades by half in `half_life` steps; an expert's worth is what
// is left of its uses. A short half-life is LRU, an endless one LFU. All worths fade alike, so
// their order changes only with a use: the order is kept by log2(worth) + time / half_life, which
// does not change between uses, in a binary heap. Source: LRFU, Lee et al., IEEE Transactions on
// Computers 50(12), 2001.
//
// Threading: one thread. Cost: O(log n) per change, no allocation after construction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace longshore::offload {

class Worth {
 public:
  // items: 0 .. items - 1. half_life: in ticks, > 0; infinite is LFU.
  Worth(int64_t items, double half_life);

  // Time goes on by one step of the model.
  void tick() { now_ += 1; }
  // The item was used `uses` times now; counted whether or not it is among the candidates.
  void use(int32_t item, double uses = 1);
  // Comparable between items; larger is worth more. Never used: -infinity.
  [[nodiscard]] double of(int32_t item) const { return keys_[static_cast<size_t>(item)]; }

  // The candidates for eviction. add(): not in it; remove(): in it.
  void add(int32_t item);
  void remove(int32_t item);
  [[nodiscard]] bool contains(int32_t item) const {
    return places_[static_cast<size_t>(item)] >= 0;
  }
  [[nodiscard]] bool empty() const { return heap_.empty(); }
  // The candidate that is worth least, lower item first among equals; there is one.
  [[nodiscard]] int32_t least() const;

 private:
  [[nodiscard]] bool before(int32_t a, int32_t b) const;
  void place(size_t at, int32_t item);
  void sift_up(size_t at);
  void sift_down(size_t at);

  double half_life_;
  double now_ = 0;
  std::vector<double> keys_;     // [items] log2(worth at last use) + last use / half_life
  std::vector<int32_t> places_;  // [items] index in heap_, -1: no candidate
  std::vector<int32_t> heap_;
};

}  // namespace longshore::offload
