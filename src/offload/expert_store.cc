#include "offload/expert_store.h"

#include <algorithm>

namespace longshore::offload {
namespace {

int64_t slots_within(const HostExperts& experts, int64_t budget_bytes) {
  if (experts.size() == 0) return 0;
  return std::min(experts.size(), budget_bytes / DeviceBank::block_bytes(experts));
}

DeviceExpertsOptions device_options(const GlmConfig& config, int64_t slots,
                                    const StoreOptions& options) {
  return {.slots = slots,
          .ring = options.ring,
          .max_tokens = options.max_tokens,
          .max_top_k = config.experts_per_token,
          .hidden = config.hidden_size,
          .decode_tokens = options.decode_tokens,
          .half_life = options.half_life,
          .forced_fetch = options.forced_fetch,
          .costs = options.costs};
}

}  // namespace

int64_t ring_for(int64_t device_bytes, int64_t block_bytes) {
  LS_CHECK(block_bytes > 0);
  constexpr int64_t kMost = 128;
  return std::clamp<int64_t>(device_bytes / 16 / block_bytes, kMost / 4, kMost);
}

Result<ExpertStore> ExpertStore::create(const Checkpoint& checkpoint, int64_t first_layer,
                                        int64_t layers, kernels::Backend& backend,
                                        const StoreOptions& options) {
  ExpertStore store;
  store.backend_ = &backend;
  LS_TRY(HostExperts experts, HostExperts::bind(checkpoint, first_layer, layers));
  store.experts_ = std::make_unique<HostExperts>(std::move(experts));
  store.top_k_ = checkpoint.config().experts_per_token;
  store.tokens_of_.resize(static_cast<size_t>(store.experts_->per_layer()));
  store.meta_ = options.meta;
  if (backend.memory().host() || store.experts_->size() == 0) return store;
  if (options.group.on()) {
    if (backend.transfers() == nullptr) {
      return fail(ErrorKind::kDevice, "{} has no wire to stream experts over", backend.name());
    }
    LS_TRY(store.grouped_, GroupedExperts::create(*store.experts_, backend, options.group));
    return store;
  }
  store.slots_ = slots_within(*store.experts_, options.budget_bytes);
  if (options.meta) {
    const bool all = store.slots_ == store.experts_->size();
    LS_TRY(store.resident_,
           DeviceBank::create(*store.experts_, backend, store.slots_ + (all ? 0 : options.ring)));
    return store;
  }
  if (store.slots_ == store.experts_->size()) {
    LS_TRY_VOID(store.load_all());
    return store;
  }
  if (backend.transfers() == nullptr) {
    return fail(ErrorKind::kDevice,
                "{} cannot hold all experts and has no wire to stream them over", backend.name());
  }
  const DeviceExpertsOptions chosen = device_options(checkpoint.config(), store.slots_, options);
  LS_TRY(store.device_, DeviceExperts::create(*store.experts_, backend, options.cpu, chosen));
  return store;
}

Result<int64_t> ExpertStore::device_bytes(const Checkpoint& checkpoint, int64_t first_layer,
                                          int64_t layers, kernels::Backend& backend,
                                          const StoreOptions& options) {
  if (backend.memory().host()) return 0;
  LS_TRY(const HostExperts experts, HostExperts::bind(checkpoint, first_layer, layers));
  if (experts.size() == 0) return 0;
  if (options.group.on()) return GroupedExperts::bytes(experts, options.group);
  const int64_t slots = slots_within(experts, options.budget_bytes);
  if (slots == experts.size()) {
    LS_TRY(const std::vector<kernels::ExpertView> shared,
           JoinedTable::bind_shared(checkpoint, first_layer, layers));
    const bool joined = !options.meta && JoinedTable::fits(experts, shared);
    return DeviceBank::bytes(experts, slots) +
           (joined ? JoinedTable::bytes(layers, experts.per_layer()) : 0);
  }
  const DeviceExpertsOptions chosen = device_options(checkpoint.config(), slots, options);
  return DeviceBank::bytes(experts, slots + options.ring) +
         DeviceExperts::routing_bytes(chosen, experts.per_layer());
}

Result<int64_t> ExpertStore::offloaded_bytes(const Checkpoint& checkpoint, int64_t first_layer,
                                             int64_t layers, kernels::Backend& backend,
                                             const StoreOptions& options) {
  if (backend.memory().host()) return 0;
  LS_TRY(const HostExperts experts, HostExperts::bind(checkpoint, first_layer, layers));
  if (options.group.on()) {
    int64_t bytes = 0;
    for (int64_t index = 0; index < experts.layers(); ++index)
      bytes += options.group.offloads(index) ? experts.per_layer() * experts.expert_bytes() : 0;
    return bytes;
  }
  return (experts.size() - slots_within(experts, options.budget_bytes)) * experts.expert_bytes();
}

Result<void> ExpertStore::load_all() {
  LS_TRY(resident_, DeviceBank::create(*experts_, *backend_, slots_));
  for (int64_t expert = 0; expert < slots_; ++expert) {
    LS_TRY_VOID(resident_->load(expert, expert));
  }
  return {};
}

Result<void> ExpertStore::join_shared(std::span<const kernels::ExpertView> shared) {
  if (!resident_ || meta_ || !JoinedTable::fits(*experts_, shared)) return {};
  LS_TRY(joined_, JoinedTable::create(*experts_, *backend_, *resident_, shared));
  return {};
}

void ExpertStore::announce(int64_t layer, ConstMatrixView x, const Routes& routes) {
  if (device_ != nullptr) device_->announce(experts_->index_of(layer), x, routes);
}

void ExpertStore::run(int64_t layer, ConstMatrixView x, const Routes& routes, MatrixView y) {
  const int64_t index = experts_->index_of(layer);
  if (meta_) {
    counters_.routes += x.rows * routes.top_k;
    return;
  }
  if (forced_ != nullptr && device_ == nullptr) {
    drawn_.resize(static_cast<size_t>(x.rows * routes.top_k));
    forced_->draw(static_cast<int32_t>(index), x.rows, routes.top_k, drawn_.data());
    backend_->copy_ints(drawn_.data(), x.rows * routes.top_k, const_cast<int32_t*>(routes.ids));
  }
  if (device_ != nullptr) {
    device_->run(index, x, routes, y);
    if (!device_->capturing()) note(index);
  } else if (grouped_ != nullptr) {
    counters_.routes += x.rows * routes.top_k;
    counters_.routes_on_device += x.rows * routes.top_k;
    run_here(index, x, routes, y, grouped_->begin(index), experts_->per_layer());
    grouped_->end(index);
  } else if (resident_) {
    counters_.routes += x.rows * top_k_;
    counters_.routes_on_device += x.rows * top_k_;
    const bool joined = joins(x.rows);
    run_here(index, x, routes, y, joined ? joined_->layer(index) : resident_->layer(index),
             experts_->per_layer() + (joined ? 1 : 0));
  } else {
    count(index, x.rows, routes);
    run_here(index, x, routes, y, experts_->layer(index), experts_->per_layer());
  }
}

void ExpertStore::run_here(int64_t index, ConstMatrixView x, const Routes& routes, MatrixView y,
                           const kernels::ExpertView* table, int64_t experts) {
  kernels::ExpertsParams params;
  params.x = x;
  params.ids = routes.ids;
  params.weights = routes.weights;
  params.top_k = routes.top_k;
  params.experts = table;
  params.num_experts = experts;
  params.shape = experts_->shape(index);
  params.mixed = experts_->mixed(index);
  params.y = y;
  backend_->experts(params);
}

bool ExpertStore::capturable(int64_t tokens) const {
  if (device_ != nullptr) return device_->concurrent() && device_->serves(tokens);
  return whole_on_device();
}

ExpertStore::Capturing::Capturing(ExpertStore& store) : store_(store), before_(store.counters_) {
  if (store.device_ != nullptr) device_.emplace(*store.device_);
}

Result<void> ExpertStore::serve(int64_t tokens, int64_t rows, const CancelToken* cancel) {
  LS_CHECK(capturable(rows));
  if (device_ == nullptr) {
    const int64_t routes = tokens * top_k_ * experts_->layers();
    counters_.routes += routes;
    counters_.routes_on_device += routes;
    return {};
  }
  device_->launched();
  for (int64_t index = 0; index < experts_->layers(); ++index) {
    if (cancel != nullptr && cancel->cancelled()) {
      device_->release();
      return fail(ErrorKind::kCancelled, "stopped");
    }
    if (!device_->serve(index, tokens, rows)) {
      device_->release();
      return {};
    }
    note(index);
  }
  return {};
}

void ExpertStore::note(int64_t index) {
  add_uses(index, device_->tokens_of());
  if (trace_ != nullptr) trace_->add(static_cast<int32_t>(index), device_->routed());
}

void ExpertStore::begin_step(int64_t tokens) {
  if (device_ != nullptr) device_->begin_step(tokens);
  if (grouped_ != nullptr) grouped_->begin_step();
}

void ExpertStore::end_step(int64_t tokens) {
  if (device_ != nullptr) device_->end_step(tokens);
}

Result<int64_t> ExpertStore::limit_slots(int64_t budget_bytes) {
  if (device_ == nullptr) {
    return fail(ErrorKind::kUsage,
                "the experts are all in one place here, so no budget can be changed: start with "
                "--gpu-expert-gib below what they need");
  }
  const int64_t block = DeviceBank::block_bytes(*experts_);
  const int64_t slots = budget_bytes / block;
  if (budget_bytes < 0 || slots > slots_) {
    return fail(ErrorKind::kUsage, "use 0 to {:.3f} GiB: the {} slots that were taken at start",
                static_cast<double>(slots_ * block) / (1 << 30), slots_);
  }
  device_->limit_slots(slots);
  return slots;
}

Result<void> ExpertStore::record(TraceWriter* writer) {
  if ((resident_ || grouped_ != nullptr) && writer != nullptr) {
    return fail(ErrorKind::kUsage,
                "--record-routing: all experts are on the device and nobody sees their routes; "
                "lower --gpu-expert-gib or use --device cpu");
  }
  trace_ = writer;
  return {};
}

void ExpertStore::report(StoreReport& into) const {
  into.counters = counters();
  into.uses = uses_;
  if (grouped_ != nullptr) {
    into.counters.prefetched = grouped_->counters().prefetched;
    into.counters.wire_bytes = grouped_->counters().wire_bytes;
    into.resident.assign(static_cast<size_t>(experts_->size()), 0);
    for (int64_t i = 0; i < experts_->size(); ++i)
      into.resident[static_cast<size_t>(i)] = grouped_->resident(i / experts_->per_layer()) ? 1 : 0;
  }
  if (resident_ && !meta_) into.resident.assign(static_cast<size_t>(experts_->size()), 1);
  if (device_ == nullptr) return;
  into.slots_used_at_most = device_->slots().limit();
  into.resident.resize(static_cast<size_t>(experts_->size()));
  for (size_t expert = 0; expert < into.resident.size(); ++expert)
    into.resident[expert] = device_->slots().find(static_cast<int32_t>(expert)) >= 0 ? 1 : 0;
  const Costs& costs = device_->costs();
  into.wire_bytes_per_second = costs.wire_bytes_per_second();
  const Costs::Start& start = device_->measured();
  into.wire_ceiling = start.wire_bytes_per_second;
  if (!device_->has_cpu()) return;
  into.cpu_bytes_per_second = static_cast<double>(experts_->expert_bytes()) / costs.cpu_seconds(1);
  into.cpu_ceiling = static_cast<double>(experts_->expert_bytes()) / start.cpu_seconds_one_token;
}

int64_t ExpertStore::pool_bytes() const {
  if (device_ != nullptr) return device_->pool_bytes();
  if (grouped_ != nullptr) return grouped_->pool_bytes();
  return resident_ ? resident_->blocks() * resident_->copied_bytes() : 0;
}

void ExpertStore::force(Routing* routing) {
  LS_CHECK(routing == nullptr || !routing->is_trace());
  forced_ = routing;
  if (device_ != nullptr) device_->force(routing);
}

const ExpertCounters& ExpertStore::counters() const {
  return device_ != nullptr ? device_->counters() : counters_;
}

void ExpertStore::add_uses(int64_t index, const std::vector<int32_t>& tokens_of) {
  uses_.resize(static_cast<size_t>(experts_->size()));
  int64_t* layer = uses_.data() + index * experts_->per_layer();
  for (size_t e = 0; e < tokens_of.size(); ++e) layer[e] += tokens_of[e];
}

void ExpertStore::count(int64_t index, int64_t tokens, const Routes& routes) {
  std::fill(tokens_of_.begin(), tokens_of_.end(), 0);
  for (int64_t i = 0; i < tokens * routes.top_k; ++i)
    ++tokens_of_[static_cast<size_t>(routes.ids[i])];
  const auto distinct =
      static_cast<int64_t>(tokens_of_.size()) - std::count(tokens_of_.begin(), tokens_of_.end(), 0);
  add_uses(index, tokens_of_);
  counters_.routes += tokens * routes.top_k;
  counters_.routed_experts += distinct;
  counters_.computed_on_cpu += distinct;
  counters_.cpu_bytes += distinct * experts_->expert_bytes();
  if (trace_ != nullptr) trace_->add(static_cast<int32_t>(index), routed_of(tokens_of_));
}

}  // namespace longshore::offload
