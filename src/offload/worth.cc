#include "offload/worth.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace longshore::offload {

Worth::Worth(int64_t items, double half_life)
    : half_life_(half_life),
      keys_(static_cast<size_t>(items), -std::numeric_limits<double>::infinity()),
      places_(static_cast<size_t>(items), -1) {
  LS_CHECK_MSG(half_life > 0, "half-life {}", half_life);
  heap_.reserve(static_cast<size_t>(items));
}

void Worth::use(int32_t item, double uses) {
  LS_CHECK(uses > 0);
  double& key = keys_[static_cast<size_t>(item)];
  const double time = now_ / half_life_;
  // log2(uses + what is left of the earlier ones), where 2^(key - time) is left.
  key = time + std::log2(uses + std::exp2(key - time));
  if (contains(item)) sift_down(static_cast<size_t>(places_[static_cast<size_t>(item)]));
}

void Worth::add(int32_t item) {
  LS_CHECK_MSG(!contains(item), "item {} is a candidate already", item);
  heap_.push_back(item);
  places_[static_cast<size_t>(item)] = static_cast<int32_t>(heap_.size()) - 1;
  sift_up(heap_.size() - 1);
}

void Worth::remove(int32_t item) {
  LS_CHECK_MSG(contains(item), "item {} is no candidate", item);
  const auto at = static_cast<size_t>(places_[static_cast<size_t>(item)]);
  const int32_t last = heap_.back();
  heap_.pop_back();
  places_[static_cast<size_t>(item)] = -1;
  if (last == item) return;
  place(at, last);
  sift_up(at);
  sift_down(static_cast<size_t>(places_[static_cast<size_t>(last)]));
}

int32_t Worth::least() const {
  LS_CHECK(!heap_.empty());
  return heap_.front();
}

bool Worth::before(int32_t a, int32_t b) const {
  const double of_a = keys_[static_cast<size_t>(a)];
  const double of_b = keys_[static_cast<size_t>(b)];
  return of_a != of_b ? of_a < of_b : a < b;
}

void Worth::place(size_t at, int32_t item) {
  heap_[at] = item;
  places_[static_cast<size_t>(item)] = static_cast<int32_t>(at);
}

void Worth::sift_up(size_t at) {
  const int32_t item = heap_[at];
  while (at > 0 && before(item, heap_[(at - 1) / 2])) {
    place(at, heap_[(at - 1) / 2]);
    at = (at - 1) / 2;
  }
  place(at, item);
}

void Worth::sift_down(size_t at) {
  const int32_t item = heap_[at];
  for (size_t child = 2 * at + 1; child < heap_.size(); child = 2 * at + 1) {
    if (child + 1 < heap_.size() && before(heap_[child + 1], heap_[child])) ++child;
    if (!before(heap_[child], item)) break;
    place(at, heap_[child]);
    at = child;
  }
  place(at, item);
}

}  // namespace longshore::offload
