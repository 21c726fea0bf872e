// Steps of many tokens: a layer's experts pass through the ring, the next layer's come ahead.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "offload/device_experts.h"

namespace longshore::offload {

// The host queues the layer and runs ahead: a copy waits for the last use of its block, a group of
// experts for the last of its copies. Experts of this layer that came ahead are computed first, in
// the order in which they came. When they are, the wire has copies for all blocks of the ring, none
// of which waits for anything: a pause here is longer than one behind the layer, where the next
// one's attention has to fit in as well.
void DeviceExperts::stream(const Layer& layer) {
  const Stopwatch watch;
  while (!wire_.passed(stream_routes_)) __builtin_ia32_pause();
  counters_.handshake_seconds += watch.seconds();
  ++counters_.handshakes;
  settle();
  if (forced_ != nullptr) {
    auto* ids = reinterpret_cast<int32_t*>(stream_ids_.data());
    forced_->draw(static_cast<int32_t>(layer.index), layer.tokens(), top_k_, ids);
    device_.copy_ints(ids, layer.tokens() * top_k_, const_cast<int32_t*>(layer.routes.ids));
  }
  count_routes(layer.index, layer.tokens(), reinterpret_cast<int32_t*>(stream_ids_.data()));
  const std::vector<int32_t> hits = pin_hits(layer.index, /*used=*/false);
  drop_stale(layer.index);
  compute_on_device(layer, hits);

  std::vector<int32_t> order;
  std::set_difference(wanted_.begin(), wanted_.end(), hits.begin(), hits.end(),
                      std::back_inserter(order));
  const auto ahead = std::stable_partition(
      order.begin(), order.end(), [this](int32_t expert) { return find_in_ring(expert) >= 0; });
  const auto came = static_cast<size_t>(ahead - order.begin());
  // Counted as hits of the wire's work ahead of time: no step waits for them.
  counters_.hits += static_cast<int64_t>(came);
  LS_CHECK(!rest_);
  ahead_bytes_ = 0;
  rest_ = {.layer = layer, .order = std::move(order), .staged = came};
  stream_in_more();
  while (rest_->done < came) {
    compute_group(came);
    stream_in_more();
  }
  if (!pausing_ || rest_->done == rest_->order.size()) return finish_layer();
  stream_ahead(layer.index + 1);
}

void DeviceExperts::finish_layer() {
  if (!rest_) return;
  while (rest_->done < rest_->order.size()) {
    compute_group(rest_->order.size());
    stream_in_more();
  }
  const int64_t next = rest_->layer.index + 1;
  rest_.reset();
  ++stream_layers_;
  stream_ahead(next);
}

void DeviceExperts::compute_group(size_t end) {
  // Small ones begin soon after their copies and free their blocks soon.
  const size_t group = std::clamp<size_t>(ring_.size() / 4, 1, 16);
  const size_t count = std::min(group, std::min(rest_->staged, end) - rest_->done);
  LS_CHECK(count > 0);
  const std::span<const int32_t> now =
      std::span<const int32_t>(rest_->order).subspan(rest_->done, count);
  // Of what came ahead the last is not always the last that came: slots may go in a pause.
  Mark copied = 0;
  for (const int32_t expert : now) copied = std::max(copied, block_of(expert).copied);
  wire_.compute_waits_for(copied);
  compute_on_device(rest_->layer, now);
  stream_out(now);
  rest_->done += count;
}

void DeviceExperts::stream_in_more() {
  const size_t first = rest_->staged;
  const Mark begin = wire_.copied();
  while (rest_->staged < rest_->order.size() && !free_blocks_.empty())
    stream_in(rest_->order[rest_->staged++]);
  if (rest_->staged == first) return;
  const auto count = static_cast<int64_t>(rest_->staged - first);
  in_flight_.push_back(
      {begin, wire_.copied(), count * bank_.copied_bytes(), /*undisturbed=*/false});
  counters_.fetched += count;
  counters_.wire_bytes += count * bank_.copied_bytes();
}

// As many of the layer's experts, if there is one, as there are free blocks: with so many tokens
// nearly all of them will be wanted.
void DeviceExperts::stream_ahead(int64_t index) {
  if (index >= experts_.layers()) return;
  const int64_t first = index * experts_.per_layer();
  const Mark begin = wire_.copied();
  const int64_t before = counters_.wire_bytes;
  for (int64_t e = first; e < first + experts_.per_layer() && !free_blocks_.empty(); ++e) {
    const auto expert = static_cast<int32_t>(e);
    if (slots_.find(expert) >= 0 || find_in_ring(expert) >= 0) continue;
    stream_in(expert);
    ++counters_.prefetched;
    counters_.wire_bytes += bank_.copied_bytes();
  }
  ahead_bytes_ += counters_.wire_bytes - before;
  if (counters_.wire_bytes > before)
    in_flight_.push_back(
        {begin, wire_.copied(), counters_.wire_bytes - before, /*undisturbed=*/false});
}

int64_t DeviceExperts::take_block(int32_t expert) {
  LS_CHECK(!free_blocks_.empty());
  const int32_t at = free_blocks_.front();
  free_blocks_.erase(free_blocks_.begin());
  Block& block = ring_[static_cast<size_t>(at)];
  wire_.copy_waits_for(block.computed);
  block.expert = expert;
  return at;
}

void DeviceExperts::stream_in(int32_t expert) {
  const int64_t at = take_block(expert);
  Block& block = ring_[static_cast<size_t>(at)];
  note_gap(block);
  bank_.copy(expert, options_.slots + at);
  bank_.point(expert, options_.slots + at);
  last_copied_ = block.copied = wire_.copied();
}

void DeviceExperts::note_gap(const Block& block) {
  if (last_copied_ != 0 && block.computed != last_awaited_)
    gaps_.push_back({last_copied_, wire_.copied()});
  last_awaited_ = block.computed;
}

void DeviceExperts::enter_beside() {
  await_stream();
  stream_shared_ = true;
  step_beside_.watch = {};
  step_beside_.before = counters_;
  step_beside_.copies.clear();
  for (const Block& block : ring_) {
    if (block.expert >= 0) step_beside_.copies.push_back(block.copied);
  }
  std::sort(step_beside_.copies.begin(), step_beside_.copies.end());
  step_beside_.from = step_beside_.last = arrived_beside();
}

void DeviceExperts::leave_beside() {
  beside_.seconds += step_beside_.watch.seconds();
  beside_.wire_bytes += (arrived_beside() - step_beside_.from) * bank_.copied_bytes();
  beside_.used = beside_.used + (counters_ - step_beside_.before);
}

// Counted in copies, as they are slower while the CPU computes; a quarter for what differs from
// layer to layer.
bool DeviceExperts::wire_lasts() {
  auto& step = step_beside_;
  const int64_t arrived = arrived_beside();
  step.layer = std::max(step.layer, arrived - std::exchange(step.last, arrived));
  return static_cast<int64_t>(step.copies.size()) - arrived > step.layer + step.layer / 4;
}

// Copies pass in their order.
int64_t DeviceExperts::arrived_beside() {
  const std::vector<Mark>& copies = step_beside_.copies;
  return std::partition_point(copies.begin(), copies.end(),
                              [this](Mark copied) { return wire_.passed(copied); }) -
         copies.begin();
}

void DeviceExperts::compute_on_device(const Layer& layer, std::span<const int32_t> experts) {
  if (experts.empty()) return;
  std::fill(host_keep_.begin(), host_keep_.end(), 0);
  for (const int32_t expert : experts)
    host_keep_[static_cast<size_t>(expert - layer.index * experts_.per_layer())] = 1;
  auto* keep = reinterpret_cast<int32_t*>(keep_.data());
  auto* masked = reinterpret_cast<int32_t*>(masked_.data());
  device_.copy_ints(host_keep_.data(), experts_.per_layer(), keep);
  device_.mask_routes({.ids = layer.routes.ids,
                       .count = layer.tokens() * layer.routes.top_k,
                       .keep = keep,
                       .num_experts = experts_.per_layer(),
                       .out = masked});
  compute(layer, masked);
}

void DeviceExperts::stream_out(std::span<const int32_t> experts) {
  const Mark here = wire_.computed();
  for (const int32_t expert : experts) {
    const int64_t at = find_in_ring(expert);
    if (at < 0) continue;  // in a slot
    ring_[static_cast<size_t>(at)].expert = -1;
    ring_[static_cast<size_t>(at)].computed = here;
    free_blocks_.push_back(static_cast<int32_t>(at));
  }
}

// Experts that came ahead for this layer and are not wanted, or for a layer that did not come.
void DeviceExperts::drop_stale(int64_t index) {
  for (size_t at = 0; at < ring_.size(); ++at) {
    Block& block = ring_[at];
    if (block.expert < 0) continue;
    const bool wanted = block.expert / experts_.per_layer() == index &&
                        std::binary_search(wanted_.begin(), wanted_.end(), block.expert);
    if (wanted) continue;
    block.expert = -1;
    free_blocks_.push_back(static_cast<int32_t>(at));
    ++counters_.prefetched_unused;
  }
}

int64_t DeviceExperts::find_in_ring(int32_t expert) const {
  for (size_t at = 0; at < ring_.size(); ++at) {
    if (ring_[at].expert == expert) return static_cast<int64_t>(at);
  }
  return -1;
}

DeviceExperts::Block& DeviceExperts::block_of(int32_t expert) {
  const int64_t at = find_in_ring(expert);
  LS_CHECK(at >= 0);
  return ring_[static_cast<size_t>(at)];
}

}  // namespace longshore::offload
