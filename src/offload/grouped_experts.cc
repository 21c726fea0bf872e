#include "offload/grouped_experts.h"

#include <algorithm>

namespace longshore::offload {

Result<void> GroupOptions::validate() const {
  if (group_size == -1) return {};
  if (group_size < 1)
    return fail(ErrorKind::kUsage, "--offload-group-size {}: use -1 (off) or at least 1",
                group_size);
  if (num_in_group < 1 || num_in_group > group_size) {
    return fail(ErrorKind::kUsage, "--offload-num-in-group {}: use 1 to --offload-group-size {}",
                num_in_group, group_size);
  }
  if (prefetch_step < 1)
    return fail(ErrorKind::kUsage, "--offload-prefetch-step {}: use at least 1", prefetch_step);
  return {};
}

namespace {

int64_t count_offloaded(const HostExperts& experts, const GroupOptions& options) {
  int64_t count = 0;
  for (int64_t index = 0; index < experts.layers(); ++index)
    count += options.offloads(index) ? 1 : 0;
  return count;
}

int64_t count_blocks(const HostExperts& experts, const GroupOptions& options) {
  const int64_t offloaded = count_offloaded(experts, options);
  return (experts.layers() - offloaded + std::min(offloaded, options.prefetch_step)) *
         experts.per_layer();
}

}  // namespace

GroupedExperts::GroupedExperts(const HostExperts& experts, kernels::Backend& backend,
                               const GroupOptions& options)
    : experts_(experts), backend_(backend), options_(options) {
  int64_t resident = 0;
  for (int64_t index = 0; index < experts.layers(); ++index) {
    if (options.offloads(index)) {
      order_.push_back(static_cast<int64_t>(offloaded_.size()));
      offloaded_.push_back(index);
    } else {
      order_.push_back(resident++);
    }
  }
  place_of_.resize(offloaded_.size(), -1);
  copied_.resize(offloaded_.size());
  computed_.resize(static_cast<size_t>(places()));
  holds_.resize(static_cast<size_t>(places()), -1);
}

GroupedExperts::~GroupedExperts() {
  // Copies may be on their way into memory that goes now.
  const device::Transfers::Mark last = backend_.transfers()->copied();
  while (!backend_.transfers()->passed(last)) {
  }
}

int64_t GroupedExperts::places() const {
  return std::min(static_cast<int64_t>(offloaded_.size()), options_.prefetch_step);
}

int64_t GroupedExperts::bytes(const HostExperts& experts, const GroupOptions& options) {
  return DeviceBank::bytes(experts, count_blocks(experts, options));
}

Result<std::unique_ptr<GroupedExperts>> GroupedExperts::create(const HostExperts& experts,
                                                               kernels::Backend& backend,
                                                               const GroupOptions& options) {
  LS_TRY_VOID(options.validate());
  std::unique_ptr<GroupedExperts> made(new GroupedExperts(experts, backend, options));
  LS_TRY(made->bank_, DeviceBank::create(experts, backend, count_blocks(experts, options)));
  // Places first, then the resident layers.
  const int64_t per_layer = experts.per_layer();
  for (int64_t index = 0; index < experts.layers(); ++index) {
    if (options.offloads(index)) continue;
    const int64_t block = (made->places() + made->order_[static_cast<size_t>(index)]) * per_layer;
    for (int64_t e = 0; e < per_layer; ++e) {
      LS_TRY_VOID(made->bank_.load(index * per_layer + e, block + e));
    }
  }
  for (int64_t place = 0; place < made->places(); ++place) made->start_load(place, place);
  return made;
}

void GroupedExperts::start_load(int64_t offloaded, int64_t place) {
  const int64_t index = offloaded_[static_cast<size_t>(offloaded)];
  place_of_[static_cast<size_t>(offloaded)] = place;
  holds_[static_cast<size_t>(place)] = offloaded;
  const int64_t per_layer = experts_.per_layer();
  backend_.transfers()->copy_waits_for(computed_[static_cast<size_t>(place)]);
  for (int64_t e = 0; e < per_layer; ++e) {
    bank_.copy(index * per_layer + e, place * per_layer + e);
    bank_.point(index * per_layer + e, place * per_layer + e);
  }
  copied_[static_cast<size_t>(offloaded)] = backend_.transfers()->copied();
  counters_.prefetched += per_layer;
  counters_.wire_bytes += per_layer * bank_.copied_bytes();
}

void GroupedExperts::begin_step() {
  // A whole step ends where it began: the first offloaded layers are back, in whatever places.
  for (int64_t offloaded = 0; offloaded < places(); ++offloaded) {
    if (is_placed(offloaded)) continue;
    for (int64_t place = 0; place < places(); ++place) start_load(place, place);
    return;
  }
}

bool GroupedExperts::is_placed(int64_t offloaded) const {
  const int64_t place = place_of_[static_cast<size_t>(offloaded)];
  return place >= 0 && holds_[static_cast<size_t>(place)] == offloaded;
}

const kernels::ExpertView* GroupedExperts::begin(int64_t index) {
  if (options_.offloads(index)) {
    const auto offloaded = static_cast<size_t>(order_[static_cast<size_t>(index)]);
    LS_CHECK_MSG(is_placed(static_cast<int64_t>(offloaded)), "layer {} is not on the device",
                 index);
    backend_.transfers()->compute_waits_for(copied_[offloaded]);
  }
  return bank_.layer(index);
}

void GroupedExperts::end(int64_t index) {
  if (!options_.offloads(index)) return;
  const int64_t offloaded = order_[static_cast<size_t>(index)];
  const auto count = static_cast<int64_t>(offloaded_.size());
  const int64_t place = place_of_[static_cast<size_t>(offloaded)];
  computed_[static_cast<size_t>(place)] = backend_.transfers()->computed();
  // Where all offloaded layers have a place there is nothing to load again.
  if (places() < count) start_load((offloaded + places()) % count, place);
}

}  // namespace longshore::offload
