#include "offload/device_experts.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>

#include <sched.h>

#include "base/clock.h"

namespace longshore::offload {

DeviceExperts::DeviceExperts(const HostExperts& experts, kernels::Backend& device,
                             kernels::Backend* cpu, const DeviceExpertsOptions& options)
    : experts_(experts),
      device_(device),
      cpu_(cpu),
      wire_(*device.transfers()),
      options_(options),
      slots_(options.slots, experts.size(), options.half_life),
      asked_slots_(options.slots),
      costs_({.wire_bytes_per_second = 1, .cpu_seconds_one_token = 1}),
      ring_(static_cast<size_t>(options.ring)),
      free_blocks_(static_cast<size_t>(options.ring)),
      tokens_of_(static_cast<size_t>(experts.per_layer())),
      host_keep_(static_cast<size_t>(experts.per_layer())) {
  std::iota(free_blocks_.begin(), free_blocks_.end(), 0);
}

Result<std::unique_ptr<DeviceExperts>> DeviceExperts::create(const HostExperts& experts,
                                                             kernels::Backend& device,
                                                             kernels::Backend* cpu,
                                                             const DeviceExpertsOptions& options) {
  LS_CHECK(device.transfers() != nullptr && options.ring >= 2);
  LS_CHECK(cpu == nullptr || cpu->activation_dtype() == device.activation_dtype());
  std::unique_ptr<DeviceExperts> made(new DeviceExperts(experts, device, cpu, options));
  LS_TRY_VOID(made->take_memory());
  if (options.costs) {
    made->start_ = *options.costs;
  } else {
    LS_TRY(made->start_, made->measure());
  }
  made->costs_ = Costs(made->start_);
  return made;
}

Result<void> DeviceExperts::take_memory() {
  const DeviceExpertsOptions& o = options_;
  LS_TRY(bank_, DeviceBank::create(experts_, device_, o.slots + o.ring));
  device::Memory& mapped = wire_.mapped();
  const int64_t act = dtype_size(device_.activation_dtype());
  constexpr int64_t kWord = 4;
  LS_TRY(host_ids_, device::Buffer::allocate(mapped, o.max_tokens * o.max_top_k * kWord, "routes"));
  LS_TRY(host_weights_, device::Buffer::allocate(mapped, o.decode_tokens * o.max_top_k * kWord,
                                                 "routes' weights"));
  LS_TRY(host_x_, device::Buffer::allocate(mapped, o.decode_tokens * o.hidden * act,
                                           "the CPU experts' input"));
  LS_TRY(host_y_, device::Buffer::allocate(mapped, o.decode_tokens * o.hidden * kWord,
                                           "the CPU experts' output"));
  LS_TRY(flag_, device::Buffer::allocate(mapped, kWord, "the CPU's flag"));
  std::memset(flag_.data(), 0, kWord);
  LS_TRY(keep_, device::Buffer::allocate(device_.memory(), experts_.per_layer() * kWord,
                                         "mask of experts"));
  LS_TRY(masked_, device::Buffer::allocate(device_.memory(), o.max_tokens * o.max_top_k * kWord,
                                           "masked routes"));
  cpu_ids_.resize(static_cast<size_t>(o.decode_tokens * o.max_top_k));
  return {};
}

DeviceExperts::~DeviceExperts() {
  // Copies may be on their way into memory that goes now.
  const Mark last = wire_.copied();
  while (!wire_.passed(last)) {
  }
}

void DeviceExperts::run(int64_t index, ConstMatrixView x, const Routes& routes, MatrixView y) {
  const Layer layer{index, x, routes, y};
  LS_CHECK(layer.tokens() <= options_.max_tokens && routes.top_k <= options_.max_top_k);
  counters_.routes += layer.tokens() * routes.top_k;
  read_routes(layer);
  settle();
  if (layer.tokens() <= options_.decode_tokens) {
    decode(layer);
  } else {
    stream(layer);
  }
}

void DeviceExperts::read_routes(const Layer& layer) {
  const int64_t count = layer.tokens() * layer.routes.top_k;
  const auto bytes = [](const device::Buffer& buffer) { return buffer.data(); };
  device_.copy_out(reinterpret_cast<const std::byte*>(layer.routes.ids), count * 4,
                   bytes(host_ids_));
  if (cpu_ != nullptr && layer.tokens() <= options_.decode_tokens) {
    LS_CHECK(layer.x.stride == layer.x.cols && layer.x.cols == options_.hidden);
    device_.copy_out(reinterpret_cast<const std::byte*>(layer.routes.weights), count * 4,
                     bytes(host_weights_));
    device_.copy_out(layer.x.data, layer.tokens() * layer.x.cols * dtype_size(layer.x.dtype),
                     bytes(host_x_));
  }
  const Stopwatch watch;
  const Mark here = wire_.computed();
  // The next thing to do is at most some ten microseconds away: no sleep is as short. While the CPU
  // computes, it is not.
  while (!wire_.passed(here)) {
    if (!lane_.done()) sched_yield();
  }
  counters_.handshake_seconds += watch.seconds();
  ++counters_.handshakes;

  std::fill(tokens_of_.begin(), tokens_of_.end(), 0);
  auto* ids = reinterpret_cast<int32_t*>(host_ids_.data());
  for (int64_t i = 0; i < count; ++i) {
    // After a fault of the device anything may stand here; the step ends with the error.
    if (ids[i] < 0 || ids[i] >= experts_.per_layer()) {
      ids[i] = -1;
    } else {
      ++tokens_of_[static_cast<size_t>(ids[i])];
    }
  }
  wanted_.clear();
  for (int64_t e = 0; e < experts_.per_layer(); ++e) {
    if (tokens_of_[static_cast<size_t>(e)] > 0)
      wanted_.push_back(static_cast<int32_t>(layer.index * experts_.per_layer() + e));
  }
  counters_.routed_experts += static_cast<int64_t>(wanted_.size());
}

void DeviceExperts::settle() {
  finish_cpu();
  for (const int32_t slot : loading_) slots_.end_load(slot);
  loading_.clear();
  for (const int32_t slot : pinned_) slots_.unpin(slot);
  pinned_.clear();
  for (const Observation& seen : in_flight_) {
    const std::optional<double> seconds = wire_.seconds_between(seen.begin, seen.end);
    if (!seconds) continue;
    if (seen.undisturbed) costs_.saw_wire(seen.bytes, *seconds);
    counters_.wire_seconds += *seconds;
  }
  in_flight_.clear();
}

void DeviceExperts::begin_step(int64_t tokens) {
  if (const int64_t asked = asked_slots_.load(); asked != slots_.limit()) slots_.set_limit(asked);
  if (tokens <= options_.decode_tokens) return;
  wanted_.clear();
  drop_stale(-1);
  stream_ahead(0);
}

void DeviceExperts::end_step() {
  settle();
  slots_.tick();
  last_misses_.swap(misses_);
  misses_.clear();
}

std::vector<int32_t> DeviceExperts::pin_hits(const Layer& layer) {
  std::vector<int32_t> hits;
  for (const int32_t expert : wanted_) {
    const int64_t e = expert - layer.index * experts_.per_layer();
    if (layer.tokens() <= options_.decode_tokens)
      slots_.use(expert, tokens_of_[static_cast<size_t>(e)]);
    const int32_t slot = slots_.find(expert);
    if (slot < 0) continue;
    slots_.pin(slot);
    pinned_.push_back(slot);
    hits.push_back(expert);
  }
  counters_.hits += static_cast<int64_t>(hits.size());
  return hits;
}

void DeviceExperts::decode(const Layer& layer) {
  const Stopwatch watch;
  const std::vector<int32_t> hits = pin_hits(layer);
  std::vector<int32_t> misses;
  std::set_difference(wanted_.begin(), wanted_.end(), hits.begin(), hits.end(),
                      std::back_inserter(misses));
  misses_.push_back(static_cast<int64_t>(misses.size()));
  const Split split = decide(layer, misses);
  counters_.policy_seconds += watch.seconds();

  drop_stale(-1);
  start_on_cpu(layer, split.cpu);
  // What does not fit half of the ring comes in turns, one on its way while another is computed.
  std::span<const int32_t> rest = split.fetch;
  const auto turn = [&] { return rest.first(std::min(rest.size(), ring_.size() / 2)); };
  fetch(turn());
  compute_on_device(layer, hits);
  while (!rest.empty()) {
    const std::span<const int32_t> now = turn();
    const Mark here = in_flight_.back().end;
    rest = rest.subspan(now.size());
    fetch(turn());
    wire_.compute_waits_for(here);
    compute_on_device(layer, now);
    stream_out(now);
  }
  add_from_cpu(layer);
}

Split DeviceExperts::decide(const Layer& layer, const std::vector<int32_t>& misses) {
  std::vector<Miss> described;
  for (const int32_t expert : misses) {
    const int64_t e = expert - layer.index * experts_.per_layer();
    described.push_back({expert, tokens_of_[static_cast<size_t>(e)], slots_.worth().of(expert)});
  }
  // With no slots at all what is fetched passes through the ring.
  const int64_t room = std::max(slots_.capacity() - slots_.counts().pinned, options_.ring);
  if (cpu_ == nullptr || options_.forced_fetch >= 0) {
    Split split;
    const double share = cpu_ == nullptr ? 1 : options_.forced_fetch;
    const auto count = static_cast<size_t>(std::ceil(share * static_cast<double>(misses.size())));
    split.fetch.assign(misses.begin(), misses.begin() + static_cast<std::ptrdiff_t>(count));
    split.cpu.assign(misses.begin() + static_cast<std::ptrdiff_t>(count), misses.end());
    return split;
  }
  return split_misses(described, costs_, bank_.copied_bytes(), room);
}

void DeviceExperts::fetch(std::span<const int32_t> experts) {
  if (experts.empty()) return;
  const Mark begin = wire_.copied();
  for (const int32_t expert : experts) {
    // Whatever was in the slot is done: the handshake came after its last use.
    const int32_t slot = slots_.begin_load(expert);
    if (slot >= 0) {
      bank_.copy(expert, slot);
      bank_.point(expert, slot);
      loading_.push_back(slot);
      pinned_.push_back(slot);
    } else {
      stream_in(expert);
    }
  }
  const int64_t bytes = static_cast<int64_t>(experts.size()) * bank_.copied_bytes();
  in_flight_.push_back({begin, wire_.copied(), bytes, /*undisturbed=*/true});
  counters_.fetched += static_cast<int64_t>(experts.size());
  counters_.wire_bytes += bytes;
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
  kernels::ExpertsParams params;
  params.x = layer.x;
  params.ids = masked;
  params.weights = layer.routes.weights;
  params.top_k = layer.routes.top_k;
  params.experts = bank_.layer(layer.index);
  params.num_experts = experts_.per_layer();
  params.shape = experts_.shape(layer.index);
  params.mixed = experts_.mixed(layer.index);
  params.y = layer.y;
  device_.experts(params);
}

void DeviceExperts::start_on_cpu(const Layer& layer, std::span<const int32_t> experts) {
  if (experts.empty()) return;
  std::fill(host_keep_.begin(), host_keep_.end(), 0);
  for (const int32_t expert : experts) {
    const auto e = static_cast<size_t>(expert - layer.index * experts_.per_layer());
    host_keep_[e] = 1;
    cpu_job_.tokens.push_back(tokens_of_[e]);
  }
  cpu_->mask_routes({.ids = reinterpret_cast<const int32_t*>(host_ids_.data()),
                     .count = layer.tokens() * layer.routes.top_k,
                     .keep = host_keep_.data(),
                     .num_experts = experts_.per_layer(),
                     .out = cpu_ids_.data()});
  const int64_t hidden = layer.x.cols;
  kernels::ExpertsParams params;
  params.x = {host_x_.data(), layer.x.dtype, layer.tokens(), hidden, hidden};
  params.ids = cpu_ids_.data();
  params.weights = reinterpret_cast<const float*>(host_weights_.data());
  params.top_k = layer.routes.top_k;
  params.experts = experts_.layer(layer.index);
  params.num_experts = experts_.per_layer();
  params.shape = experts_.shape(layer.index);
  params.mixed = experts_.mixed(layer.index);
  params.y = {host_y_.data(), DType::kF32, layer.tokens(), hidden, hidden};
  const auto number = static_cast<int32_t>(++cpu_jobs_);
  lane_.start([this, params, number] {
    const Stopwatch watch;
    std::memset(params.y.data, 0, static_cast<size_t>(params.y.rows * params.y.cols * 4));
    cpu_->experts(params);
    cpu_job_.seconds = watch.seconds();
    std::atomic_ref<int32_t>(*reinterpret_cast<int32_t*>(flag_.data()))
        .store(number, std::memory_order_release);
  });
  counters_.computed_on_cpu += static_cast<int64_t>(experts.size());
  counters_.cpu_bytes += static_cast<int64_t>(experts.size()) * experts_.expert_bytes();
}

void DeviceExperts::add_from_cpu(const Layer& layer) {
  if (cpu_job_.tokens.empty()) return;
  const int64_t hidden = layer.x.cols;
  device_.wait_for_host(reinterpret_cast<const int32_t*>(flag_.data()),
                        static_cast<int32_t>(cpu_jobs_));
  device_.add(
      {.x = MatrixView{host_y_.data(), DType::kF32, layer.tokens(), hidden, hidden}, .y = layer.y});
}

// The device has passed the job's sum, so this waits only after a fault.
void DeviceExperts::finish_cpu() {
  if (cpu_job_.tokens.empty()) return;
  lane_.wait();
  costs_.saw_cpu(cpu_job_.tokens, cpu_job_.seconds);
  counters_.cpu_seconds += cpu_job_.seconds;
  cpu_job_.tokens.clear();
}

}  // namespace longshore::offload
