#include "offload/device_experts.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/clock.h"

namespace longshore::offload {
namespace {

constexpr int64_t kWordBytes = 4;
constexpr int64_t kLine = 64;  // a word that one side polls shares no line with another

int32_t* ints(const device::Buffer& buffer) {
  return reinterpret_cast<int32_t*>(buffer.data());
}

// Pieces that a missing expert can be cut into for CPU and wire, of at least some columns.
constexpr int64_t kMostPieces = 32;
constexpr int64_t kLeastColumns = 8;

int64_t columns_of_piece(int64_t width) {
  return std::max(kLeastColumns, width / kMostPieces / kLeastColumns * kLeastColumns);
}

// Of a layer's decisions.
uint64_t tag_of(int64_t index) {
  return static_cast<uint64_t>(index) + 1;
}

}  // namespace

DeviceExperts::DeviceExperts(const HostExperts& experts, kernels::Backend& device,
                             kernels::Backend* cpu, const DeviceExpertsOptions& options)
    : experts_(experts),
      device_(device),
      cpu_(cpu),
      wire_(*device.transfers()),
      exchange_(*kernels::RouteExchange::of(device)),
      options_(options),
      slots_(options.slots, experts.size(), options.half_life),
      asked_slots_(options.slots),
      costs_({.wire_bytes_per_second = 1, .cpu_seconds_one_token = 1}),
      ring_(static_cast<size_t>(cpu == nullptr ? options.ring : options.ring - 1)),
      free_blocks_(ring_.size()),
      tokens_of_(static_cast<size_t>(experts.per_layer())),
      host_keep_(static_cast<size_t>(experts.per_layer())) {
  std::iota(free_blocks_.begin(), free_blocks_.end(), 0);
}

Result<std::unique_ptr<DeviceExperts>> DeviceExperts::create(const HostExperts& experts,
                                                             kernels::Backend& device,
                                                             kernels::Backend* cpu,
                                                             const DeviceExpertsOptions& options) {
  LS_CHECK(device.transfers() != nullptr && kernels::RouteExchange::of(device) != nullptr);
  LS_CHECK(options.ring >= 2 && options.slots + options.ring < kernels::RouteDecision::kMostBlocks);
  LS_CHECK(experts.per_layer() <= kernels::RouteDecision::kMostExperts &&
           tag_of(experts.layers()) < kernels::RouteDecision::kAny);
  LS_CHECK(cpu == nullptr || cpu->activation_dtype() == device.activation_dtype());
  std::unique_ptr<DeviceExperts> made(new DeviceExperts(experts, device, cpu, options));
  LS_TRY_VOID(made->take_memory());
  if (options.costs) {
    made->start_ = *options.costs;
  } else {
    LS_TRY(made->start_, made->measure());
  }
  made->costs_ = Costs(made->start_);
  made->stream_rate_ = made->start_.wire_bytes_per_second;
  return made;
}

Result<void> DeviceExperts::take_memory() {
  const DeviceExpertsOptions& o = options_;
  LS_TRY(bank_, DeviceBank::create(experts_, device_, o.slots + o.ring));
  device::Memory& mapped = wire_.mapped();
  const int64_t act = dtype_size(device_.activation_dtype());
  const int64_t most_routes = o.max_tokens * o.max_top_k * kWordBytes;
  const int64_t routes = o.decode_tokens * o.max_top_k * kWordBytes;
  const auto take = [](device::Buffer& to, device::Memory& memory, int64_t bytes,
                       const char* what) -> Result<void> {
    // decode_tokens may be 0: everything streams.
    LS_TRY(to, device::Buffer::allocate(memory, std::max(bytes, kWordBytes), what));
    return {};
  };
  LS_TRY_VOID(take(words_, mapped, experts_.layers() * kWords * kLine, "words of the layers"));
  LS_TRY_VOID(take(stream_ids_, mapped, most_routes, "streamed routes"));
  LS_TRY_VOID(take(host_ids_, mapped, routes, "routes"));
  LS_TRY_VOID(take(host_weights_, mapped, routes, "routes' weights"));
  LS_TRY_VOID(take(host_x_, mapped, o.decode_tokens * o.hidden * act, "the CPU experts' input"));
  LS_TRY_VOID(
      take(host_y_, mapped, o.decode_tokens * o.hidden * kWordBytes, "the CPU experts' output"));
  LS_TRY_VOID(take(decisions_, mapped, 2 * routes, "decisions"));
  std::memset(words_.data(), 0, static_cast<size_t>(words_.bytes()));
  std::memset(host_y_.data(), 0, static_cast<size_t>(host_y_.bytes()));
  device::Memory& memory = device_.memory();
  LS_TRY_VOID(take(keep_, memory, experts_.per_layer() * kWordBytes, "mask of experts"));
  LS_TRY_VOID(take(masked_, memory, most_routes, "masked routes"));
  LS_TRY_VOID(take(later_, memory, routes, "later routes"));
  cpu_ids_.resize(static_cast<size_t>(o.decode_tokens * o.max_top_k));
  return {};
}

int64_t DeviceExperts::routing_bytes(const DeviceExpertsOptions& o, int64_t per_layer) {
  return (per_layer + o.max_tokens * o.max_top_k +
          std::max<int64_t>(o.decode_tokens * o.max_top_k, 1)) *
         kWordBytes;
}

DeviceExperts::~DeviceExperts() {
  // Copies may be on their way into memory that goes now.
  const Mark last = wire_.copied();
  while (!wire_.passed(last)) {
  }
}

// Without a CPU every miss is fetched, and what one call fetches fits the ring or streams.
bool DeviceExperts::serves(int64_t tokens) const {
  if (tokens > options_.decode_tokens) return false;
  return cpu_ != nullptr ||
         std::min(tokens * options_.max_top_k, experts_.per_layer()) <= options_.ring;
}

int32_t* DeviceExperts::word(int64_t index, Word which) const {
  return reinterpret_cast<int32_t*>(words_.data() + (index * kWords + which) * kLine);
}

void DeviceExperts::set(int64_t index, Word which, int32_t value) {
  std::atomic_ref<int32_t>(*word(index, which)).store(value, std::memory_order_release);
}

bool DeviceExperts::await_routes(int64_t index) {
  const std::atomic_ref<int32_t> ready(*word(index, kReady));
  constexpr int kPolls = 512;  // some ten microseconds: the device is asked less often
  const Stopwatch watch;
  bool there = false;
  for (int polls = 1; !there; ++polls) {
    there = ready.load(std::memory_order_acquire) != 0;
    if (there || polls % kPolls != 0) {
      __builtin_ia32_pause();
      continue;
    }
    // What passed without writing the word has failed.
    if (wire_.passed(end_) && ready.load(std::memory_order_acquire) == 0) break;
  }
  counters_.handshake_seconds += watch.seconds();
  ++counters_.handshakes;
  return there;
}

void DeviceExperts::announce(int64_t index, ConstMatrixView x, const Routes& routes) {
  const int64_t count = x.rows * routes.top_k;
  LS_CHECK(x.rows <= options_.max_tokens && routes.top_k <= options_.max_top_k);
  top_k_ = routes.top_k;
  if (!serves(x.rows)) {
    device_.copy_out(reinterpret_cast<const std::byte*>(routes.ids), count * kWordBytes,
                     stream_ids_.data());
    stream_routes_ = wire_.computed();
    return;
  }
  kernels::PublishRoutesParams params;
  params.ids = routes.ids;
  params.count = count;
  params.to_ids = ints(host_ids_);
  params.ready = word(index, kReady);
  if (cpu_ != nullptr) {
    LS_CHECK(x.stride == x.cols && x.cols == options_.hidden);
    params.weights = routes.weights;
    params.to_weights = reinterpret_cast<float*>(host_weights_.data());
    params.x = x;
    params.to_x = host_x_.data();
  }
  exchange_.publish_routes(params);
}

void DeviceExperts::run(int64_t index, ConstMatrixView x, const Routes& routes, MatrixView y) {
  const Layer layer{index, x, routes, y};
  if (!serves(layer.tokens())) {
    LS_CHECK(!capturing_);
    stream(layer);
    return;
  }
  // Outside of a graph a kernel that was never launched may have to be loaded, which can wait for
  // all that the device has: so nothing is launched while the device waits for the host.
  if (!capturing_) {
    launched();
    if (!serve(index, layer.tokens(), layer.tokens())) release();
  }
  queue(layer);
}

// Nothing here depends on what the host will decide.
void DeviceExperts::queue(const Layer& layer) {
  kernels::TakeRoutesParams params;
  params.decisions = reinterpret_cast<const uint64_t*>(decisions_.data());
  params.tag = tag_of(layer.index);
  params.count = layer.tokens() * layer.routes.top_k;
  params.blocks = bank_.layout();
  params.table = bank_.layer(layer.index);
  params.to_now = ints(masked_);
  params.to_later = ints(later_);
  exchange_.take_routes(params);
  compute(layer, params.to_now);
  device_.wait_for_host(word(layer.index, kFetched), 1);
  compute(layer, params.to_later);
  if (cpu_ == nullptr) return;
  const int64_t hidden = layer.x.cols;
  exchange_.add_when(
      {.x = MatrixView{host_y_.data(), DType::kF32, layer.tokens(), hidden, hidden}, .y = layer.y},
      word(layer.index, kSummed));
}

void DeviceExperts::compute(const Layer& layer, const int32_t* ids) {
  kernels::ExpertsParams params;
  params.x = layer.x;
  params.ids = ids;
  params.weights = layer.routes.weights;
  params.top_k = layer.routes.top_k;
  params.experts = bank_.layer(layer.index);
  params.num_experts = experts_.per_layer();
  params.shape = experts_.shape(layer.index);
  params.mixed = experts_.mixed(layer.index);
  params.y = layer.y;
  device_.experts(params);
}

bool DeviceExperts::serve(int64_t index, int64_t tokens, int64_t rows) {
  LS_CHECK(tokens >= 1 && tokens <= rows && serves(rows));
  if (!await_routes(index)) return false;
  settle();
  if (forced_ != nullptr)
    forced_->draw(static_cast<int32_t>(index), tokens, top_k_, ints(host_ids_));
  const Stopwatch watch;
  count_routes(index, tokens, ints(host_ids_));
  const std::vector<int32_t> hits = pin_hits(index, /*used=*/true);
  std::vector<int32_t> misses;
  std::set_difference(wanted_.begin(), wanted_.end(), hits.begin(), hits.end(),
                      std::back_inserter(misses));
  misses_.push_back(static_cast<int64_t>(misses.size()));
  if (!streaming_) drop_stale(-1);
  const Split split = decide(index, misses);
  place(split);
  tell(index, tokens, rows, hits, split);
  counters_.policy_seconds += watch.seconds();
  if (split.cpu.empty() && split.shared < 0) {
    fetch(index, split);
    return true;
  }
  const double before = counters_.queueing_seconds;
  compute_on_cpu(index, tokens, rows, split, [&] { fetch(index, split); });
  counters_.overlapped_seconds += counters_.queueing_seconds - before;
  return true;
}

DeviceExperts::Capturing::Capturing(DeviceExperts& experts) : experts_(experts) {
  LS_CHECK(!experts_.capturing_);
  experts_.capturing_ = true;
  std::memset(experts_.words_.data(), 0, static_cast<size_t>(experts_.words_.bytes()));
  experts_.release();
}

void DeviceExperts::release() {
  using kernels::RouteDecision;
  auto* decisions = reinterpret_cast<uint64_t*>(decisions_.data());
  for (int64_t i = 0; i < options_.decode_tokens * options_.max_top_k; ++i) {
    std::atomic_ref<uint64_t>(decisions[i])
        .store(RouteDecision::word(RouteDecision::kAny, RouteDecision::kElsewhere, 0, 0));
  }
  for (int64_t index = 0; index < experts_.layers(); ++index) {
    set(index, kFetched, 1);
    set(index, kSummed, kernels::RouteExchange::kNothing);
  }
  released_ = true;
}

void DeviceExperts::count_routes(int64_t index, int64_t tokens, int32_t* ids) {
  std::fill(tokens_of_.begin(), tokens_of_.end(), 0);
  for (int64_t i = 0; i < tokens * top_k_; ++i) {
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
      wanted_.push_back(static_cast<int32_t>(index * experts_.per_layer() + e));
  }
  counters_.routes += tokens * top_k_;
  counters_.routed_experts += static_cast<int64_t>(wanted_.size());
}

void DeviceExperts::settle() {
  for (const int32_t slot : loading_) slots_.end_load(slot);
  loading_.clear();
  for (const int32_t slot : pinned_) slots_.unpin(slot);
  pinned_.clear();
  std::erase_if(in_flight_, [this](const Observation& seen) {
    if (!wire_.passed(seen.end)) return false;
    const std::optional<double> seconds = wire_.seconds_between(seen.begin, seen.end);
    if (!seconds) return true;
    // The queue's time has no part in what it takes until the copies begin.
    if (seen.undisturbed) costs_.saw_wire(seen.bytes, *seconds + start_.wire_overhead);
    counters_.wire_seconds += *seconds;
    return true;
  });
  std::erase_if(gaps_, [this](const Gap& gap) {
    if (!wire_.passed(gap.begin)) return false;
    counters_.wire_idle_seconds += wire_.seconds_between(gap.end, gap.begin).value_or(0);
    return true;
  });
  for (const int32_t expert : passing_) {
    const int64_t at = find_in_ring(expert);
    ring_[static_cast<size_t>(at)] = {};
    free_blocks_.push_back(static_cast<int32_t>(at));
  }
  passing_.clear();
}

void DeviceExperts::begin_step(int64_t tokens) {
  if (streaming_) {
    LS_CHECK(serves(tokens) && cpu_ != nullptr);
    step_beside_.layer = 0;
    enter_beside();
  }
  if (const int64_t asked = asked_slots_.load(); asked != slots_.limit()) slots_.set_limit(asked);
  if (serves(tokens)) {
    std::memset(words_.data(), 0, static_cast<size_t>(words_.bytes()));
    std::memset(decisions_.data(), 0, static_cast<size_t>(decisions_.bytes()));
    return;
  }
  streaming_ = true;
  stream_ = Stopwatch();
  stream_from_ = counters_.wire_bytes;
  stream_layers_ = 0;
  ahead_bytes_ = 0;
  stream_shared_ = false;
  last_copied_ = 0;
  wanted_.clear();
  drop_stale(-1);
  stream_ahead(0);
}

// Rates fade, as a shared machine may have had a good moment.
void DeviceExperts::end_stream() {
  streaming_ = false;
  pausing_ = false;
  if (rest_) counters_.abandoned += static_cast<int64_t>(rest_->order.size() - rest_->staged);
  rest_.reset();
  if (stream_shared_ || stream_layers_ < experts_.layers()) return;
  const auto bytes = static_cast<double>(counters_.wire_bytes - stream_from_);
  stream_rate_ = std::max(0.98 * stream_rate_, bytes / stream_.seconds());
}

double DeviceExperts::await_stream() {
  LS_CHECK(streaming_);
  const Mark here = wire_.computed();
  while (!wire_.passed(here)) __builtin_ia32_pause();
  settle();
  if (stream_layers_ == 0 && !rest_) return INFINITY;
  // What is queued and nobody has waited for.
  int64_t coming = ahead_bytes_;
  if (rest_) coming += static_cast<int64_t>(rest_->staged - rest_->done) * bank_.copied_bytes();
  const auto bytes = static_cast<double>(counters_.wire_bytes - stream_from_ - coming);
  return stream_.seconds() - bytes / stream_rate_;
}

void DeviceExperts::end_step(int64_t tokens) {
  if (!serves(tokens)) {
    end_stream();
  } else if (streaming_) {
    leave_beside();
    ++beside_.steps;
  }
  if (released_) {
    // Copies that nobody waited for write to words and slots.
    const Mark last = wire_.copied();
    while (!wire_.passed(last)) {
    }
    // The device was told that they are elsewhere, so it may not have pointed to them.
    for (const int32_t slot : loading_) bank_.point(slots_.expert(slot), slot);
    released_ = false;
  }
  settle();
  slots_.tick();
  last_misses_.swap(misses_);
  misses_.clear();
}

// used: the experts have been used once more; what streams does not count.
std::vector<int32_t> DeviceExperts::pin_hits(int64_t index, bool used) {
  std::vector<int32_t> hits;
  for (const int32_t expert : wanted_) {
    const int64_t e = expert - index * experts_.per_layer();
    if (used) slots_.use(expert, tokens_of_[static_cast<size_t>(e)]);
    const int32_t slot = slots_.find(expert);
    if (slot < 0) continue;
    slots_.pin(slot);
    pinned_.push_back(slot);
    hits.push_back(expert);
  }
  counters_.hits += static_cast<int64_t>(hits.size());
  return hits;
}

Split DeviceExperts::decide(int64_t index, const std::vector<int32_t>& misses) {
  std::vector<Miss> described;
  for (const int32_t expert : misses) {
    const int64_t e = expert - index * experts_.per_layer();
    described.push_back({expert, tokens_of_[static_cast<size_t>(e)], slots_.worth().of(expert)});
  }
  // What finds no slot passes through the ring.
  const int64_t free = slots_.limit() - static_cast<int64_t>(pinned_.size());
  const int64_t room = std::max<int64_t>(free, 0) + static_cast<int64_t>(ring_.size());
  const int64_t width = experts_.shape(index).gate.out;
  const int64_t pieces = share_misses_ ? std::max<int64_t>(width / columns_of_piece(width), 1) : 1;
  const bool left = streaming_ || wire_left_;
  if (cpu_ != nullptr && !left && options_.forced_fetch < 0) {
    return split_misses(described, costs_,
                        {.bytes = bank_.copied_bytes(), .max_fetch = room, .pieces = pieces});
  }
  const double share = cpu_ == nullptr ? 1 : left ? 0 : options_.forced_fetch;
  return split_by_share(misses, share, room, pieces);
}

// Exactly that share of the misses over the wire.
Split DeviceExperts::split_by_share(const std::vector<int32_t>& misses, double share, int64_t room,
                                    int64_t pieces) {
  Split split;
  const double wished = share * static_cast<double>(misses.size());
  const auto whole = std::min(static_cast<int64_t>(wished), room);
  const auto cut = misses.begin() + whole;
  split.fetch.assign(misses.begin(), cut);
  split.cpu.assign(cut, misses.end());
  split.pieces_on_cpu =
      std::llround((1 - (wished - static_cast<double>(whole))) * static_cast<double>(pieces));
  if (split.cpu.empty() || whole == room || split.pieces_on_cpu < 1 ||
      split.pieces_on_cpu >= pieces) {
    split.pieces_on_cpu = 0;
    return split;
  }
  split.shared = split.cpu.front();
  split.cpu.erase(split.cpu.begin());
  return split;
}

void DeviceExperts::place(const Split& split) {
  blocks_.clear();
  for (const int32_t expert : split.fetch) {
    // Whatever was in the slot is done: the layer's routes came after its last use.
    int64_t block = slots_.begin_load(expert);
    if (block >= 0) {
      loading_.push_back(static_cast<int32_t>(block));
      pinned_.push_back(static_cast<int32_t>(block));
    } else {
      block = options_.slots + take_block(expert);
      passing_.push_back(expert);
    }
    blocks_.push_back(block);
  }
}

// What needs nothing more from the host is told first: the device may go on once it is told the
// decisions.
void DeviceExperts::tell(int64_t index, int64_t tokens, int64_t rows, std::span<const int32_t> hits,
                         const Split& split) {
  using kernels::RouteDecision;
  constexpr int32_t kOnCpu = -2, kHere = -1;  // otherwise the block that the expert comes to
  std::fill(host_keep_.begin(), host_keep_.end(), kOnCpu);
  const int64_t first = index * experts_.per_layer();
  for (const int32_t expert : hits) host_keep_[static_cast<size_t>(expert - first)] = kHere;
  for (size_t i = 0; i < split.fetch.size(); ++i)
    host_keep_[static_cast<size_t>(split.fetch[i] - first)] = static_cast<int32_t>(blocks_[i]);
  // Both sides compute a term of it.
  const auto shared = static_cast<int32_t>(split.shared < 0 ? -1 : split.shared - first);
  if (shared >= 0) host_keep_[static_cast<size_t>(shared)] = static_cast<int32_t>(shared_block());

  const int32_t* ids = ints(host_ids_);
  int64_t on_cpu = 0;
  for (int64_t i = 0; i < tokens * top_k_; ++i) {
    const bool cpu =
        ids[i] >= 0 && (ids[i] == shared || host_keep_[static_cast<size_t>(ids[i])] == kOnCpu);
    cpu_ids_[static_cast<size_t>(i)] = cpu ? ids[i] : -1;
    on_cpu += cpu ? 1 : 0;
  }
  if (split.fetch.empty() && shared < 0) set(index, kFetched, 1);
  if (on_cpu == 0) set(index, kSummed, kernels::RouteExchange::kNothing);
  auto* decisions = reinterpret_cast<uint64_t*>(decisions_.data());
  for (int64_t i = 0; i < rows * top_k_; ++i) {
    const int32_t id = ids[std::min(i / top_k_, tokens - 1) * top_k_ + i % top_k_];
    const int32_t place = id < 0 ? kOnCpu : host_keep_[static_cast<size_t>(id)];
    const auto who = place == kOnCpu  ? RouteDecision::kElsewhere
                     : place == kHere ? RouteDecision::kNow
                                      : RouteDecision::kLater;
    std::atomic_ref<uint64_t>(decisions[i])
        .store(RouteDecision::word(tag_of(index), who, std::max(id, 0), std::max(place, 0)),
               std::memory_order_release);
  }
}

void DeviceExperts::fetch(int64_t index, const Split& split) {
  if (split.fetch.empty() && split.shared < 0) return;
  const Stopwatch watch;
  const Mark begin = wire_.copied();
  int64_t bytes = static_cast<int64_t>(split.fetch.size()) * bank_.copied_bytes();
  for (size_t i = 0; i < split.fetch.size(); ++i) bank_.copy(split.fetch[i], blocks_[i]);
  if (split.shared >= 0) {
    const int64_t columns = columns_on_cpu(index, split);
    bank_.copy_rest(split.shared, shared_block(), columns);
    bytes += bank_.rest_bytes(split.shared, columns);
    ++counters_.shared;
  }
  const Mark end = wire_.copied();
  exchange_.signal_copied(word(index, kFetched));
  // Copies of short rows say little of the wire's speed with whole experts.
  in_flight_.push_back({begin, end, bytes, /*undisturbed=*/split.shared < 0});
  counters_.fetched += static_cast<int64_t>(split.fetch.size());
  counters_.wire_bytes += bytes;
  counters_.queueing_seconds += watch.seconds();
}

int64_t DeviceExperts::columns_on_cpu(int64_t index, const Split& split) const {
  return split.pieces_on_cpu * columns_of_piece(experts_.shape(index).gate.out);
}

// The host has nothing else to do now: the next layer's routes need this sum.
void DeviceExperts::compute_on_cpu(int64_t index, int64_t tokens, int64_t rows, const Split& split,
                                   const std::function<void()>& meanwhile) {
  const Stopwatch watch;
  const int64_t hidden = options_.hidden;
  kernels::ExpertsParams params;
  params.x = {host_x_.data(), device_.activation_dtype(), tokens, hidden, hidden};
  params.ids = cpu_ids_.data();
  params.weights = reinterpret_cast<const float*>(host_weights_.data());
  params.top_k = top_k_;
  params.experts = experts_.layer(index);
  params.num_experts = experts_.per_layer();
  params.shape = experts_.shape(index);
  params.mixed = experts_.mixed(index);
  if (split.shared >= 0)
    params.part = {static_cast<int32_t>(split.shared - index * experts_.per_layer()),
                   columns_on_cpu(index, split)};
  params.meanwhile = &meanwhile;
  params.y = {host_y_.data(), DType::kF32, tokens, hidden, hidden};
  const auto row = static_cast<size_t>(hidden) * sizeof(float);
  std::memset(host_y_.data(), 0, static_cast<size_t>(tokens) * row);
  cpu_->experts(params);
  for (int64_t t = tokens; t < rows; ++t)
    std::memcpy(params.y.data + static_cast<size_t>(t) * row, params.y.row(tokens - 1), row);
  set(index, kSummed, kernels::RouteExchange::kThere);

  note_cpu(index, split, watch.seconds());
}

void DeviceExperts::note_cpu(int64_t index, const Split& split, double seconds) {
  const auto tokens = [&](int32_t expert) {
    return int64_t{tokens_of_[static_cast<size_t>(expert - index * experts_.per_layer())]};
  };
  std::vector<Costs::Load> loads;
  for (const int32_t expert : split.cpu) loads.push_back({tokens(expert)});
  double experts = static_cast<double>(split.cpu.size());
  if (split.shared >= 0) {
    const double share = static_cast<double>(columns_on_cpu(index, split)) /
                         static_cast<double>(experts_.shape(index).gate.out);
    loads.push_back({tokens(split.shared), share});
    experts += share;
  }
  costs_.saw_cpu(loads, seconds);
  counters_.cpu_seconds += seconds;
  counters_.computed_on_cpu += static_cast<int64_t>(split.cpu.size());
  counters_.cpu_bytes += std::llround(experts * static_cast<double>(experts_.expert_bytes()));
}

}  // namespace longshore::offload
