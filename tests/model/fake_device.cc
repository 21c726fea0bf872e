#include "tests/model/fake_device.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include <sys/mman.h>

namespace longshore {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kHugePage = 2 << 20;
constexpr const char* kStampName = "stamp";

int64_t round_up(int64_t bytes, int64_t to) {
  return (bytes + to - 1) / to * to;
}

}  // namespace

// Huge pages, opened and closed whole: mprotect takes time by the page.
FakeMemory::FakeMemory(int64_t capacity)
    : capacity_(capacity), reserved_(round_up(capacity, kHugePage) + kHugePage) {
  void* data = mmap(nullptr, static_cast<size_t>(reserved_), PROT_NONE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  LS_CHECK_MSG(data != MAP_FAILED, "{}", std::strerror(errno));
  range_ = static_cast<std::byte*>(data);
  base_ = reinterpret_cast<std::byte*>(
      round_up(static_cast<int64_t>(reinterpret_cast<uintptr_t>(data)), kHugePage));
  // A refusal only costs time.
  (void)madvise(data, static_cast<size_t>(reserved_), MADV_HUGEPAGE);
}

FakeMemory::~FakeMemory() {
  munmap(range_, static_cast<size_t>(reserved_));
}

void FakeMemory::protect(int protection) {
  if (used_ == 0) return;
  LS_CHECK(mprotect(base_, static_cast<size_t>(round_up(used_, kHugePage)), protection) == 0);
}

void FakeMemory::open() {
  protect(PROT_READ | PROT_WRITE);
}

void FakeMemory::close() {
  protect(PROT_NONE);
}

Result<std::byte*> FakeMemory::allocate(int64_t bytes, const char* what) {
  const int64_t pages = round_up(bytes, kPage);
  if (pages > available()) {
    return fail(ErrorKind::kMemory, "{}: cannot allocate {} bytes of fake memory, {} are free",
                what, bytes, available());
  }
  std::byte* data = base_ + used_;
  used_ += pages;
  live_ += bytes;
  // As a device gives it: what is in it means nothing. NaN in fp32, bf16 and e4m3.
  const Access access(*this);
  std::memset(data, 0xFF, static_cast<size_t>(std::min<int64_t>(bytes, int64_t{64} << 20)));
  return data;
}

void FakeMemory::free(std::byte* data, int64_t bytes) {
  const int64_t pages = round_up(bytes, kPage);
  live_ -= bytes;
  if (data + pages == base_ + used_) used_ -= pages;
}

bool FakeMemory::contains(const void* data) const {
  const auto* at = static_cast<const std::byte*>(data);
  return at >= base_ && at < base_ + used_;
}

Result<void> FakeMemory::upload(std::byte* to, const void* host, int64_t bytes) {
  LS_CHECK(bytes == 0 || (contains(to) && !contains(host)));
  ++uploads;
  const Access access(*this);
  std::memcpy(to, host, static_cast<size_t>(bytes));
  return {};
}

Result<void> FakeMemory::download(void* host, const std::byte* from, int64_t bytes) {
  LS_CHECK(bytes == 0 || (contains(from) && !contains(host)));
  ++downloads;
  const Access access(*this);
  std::memcpy(host, from, static_cast<size_t>(bytes));
  return {};
}

FakeDevice::FakeDevice(std::unique_ptr<kernels::Backend> inner, int64_t capacity)
    : memory_(capacity), inner_(std::move(inner)) {
  LS_CHECK(inner_->memory().host());
}

void FakeDevice::operate(const char* what, std::function<void()> run, int64_t rows) {
  enqueue({.what = what, .run = std::move(run), .rows = rows});
}

void FakeDevice::wait_for_word(const int32_t* word, int32_t value) {
  LS_CHECK(!memory_.contains(word));
  const auto there = [word, value] {
    return std::atomic_ref<const int32_t>(*word).load() >= value;
  };
  enqueue({"a wait", {}, there, word});
}

void FakeDevice::enqueue(Queued work) {
  if (capturing_) {
    captured_.push_back(std::move(work));
    return;
  }
  // The host may have said since what the device waited for.
  progress();
  LS_CHECK_MSG(
      queue_.empty(),
      "launched while the device waits for the host: a kernel may have to be loaded first");
  queued_ += work.run ? 1 : 0;
  work.from = host_seconds_;
  queue_.push_back(std::move(work));
  progress();
}

void FakeDevice::progress() {
  LS_CHECK_MSG(!running_, "an operation queues another");
  while (!queue_.empty()) {
    const Queued& next = queue_.front();
    if (next.there) {
      if (!next.there() && !fault_) transfers_.run_copies_before(next.word);
      if (!next.there() && !fault_) return;
      device_seconds_ = std::max(device_seconds_, host_seconds_);  // which wrote the word
    } else {
      ++calls[next.what];
      if (++operations_ == fail_at_)
        fault_ = Error{ErrorKind::kDevice,
                       fmt::format("{} on the fake device: told to fail", next.what)};
      if (!fault_) {
        const FakeMemory::Access access(memory_);
        running_ = true;
        next.run();
        nanoseconds_ += next.what == kStampName ? kStamp : kOperation;
        device_seconds_ = std::max(device_seconds_, next.from);
        if (times_) device_seconds_ += times_->operation(next.what, next.rows);
        running_ = false;
      }
    }
    queue_.pop_front();
  }
}

void FakeDevice::check_inside(const void* data, const char* what) const {
  LS_CHECK_MSG(memory_.contains(data), "{} is not in the device's memory", what);
}

void FakeDevice::check_weight(const WeightView& w) const {
  check_inside(w.data, "a weight");
  if (w.scale != nullptr) check_inside(w.scale, "a scale");
  LS_CHECK_MSG(reinterpret_cast<uintptr_t>(w.data) % 16 == 0, "a weight is not aligned");
}

// An entry of a table whose expert is not there may point nowhere.
void FakeDevice::check_weight_place(const WeightView& w) const {
  if (w.data != nullptr) check_weight(w);
}

void FakeDevice::check_batch(const kernels::BatchView& batch) const {
  check_inside(batch.positions, "positions");
  check_inside(batch.sequence_of, "sequence_of");
  check_inside(batch.page_table, "page_table");
}

void FakeDevice::copy_ints(const int32_t* host, int64_t count, int32_t* to) {
  LS_CHECK(!memory_.contains(host));
  LS_CHECK_MSG(!capturing_, "the values would freeze in the graph");
  check_inside(to, "copy_ints' target");
  operate("copy_ints", [values = std::vector<int32_t>(host, host + count), to] {
    std::copy(values.begin(), values.end(), to);
  });
}

void FakeDevice::copy_out(const std::byte* from, int64_t bytes, std::byte* to) {
  if (bytes == 0) return;
  check_inside(from, "copy_out's source");
  LS_CHECK(!memory_.contains(to));
  operate("copy_out", [=] { std::memcpy(to, from, static_cast<size_t>(bytes)); });
}

void FakeDevice::wait_for_host(const int32_t* flag, int32_t value) {
  wait_for_word(flag, value);
}

void FakeDevice::publish_routes(const kernels::PublishRoutesParams& p) {
  check_inside(p.ids, "ids");
  LS_CHECK(!memory_.contains(p.to_ids) && !memory_.contains(p.ready));
  if (p.weights != nullptr) {
    check_inside(p.weights, "weights");
    check_inside(p.x.data, "x");
    LS_CHECK(!memory_.contains(p.to_weights) && !memory_.contains(p.to_x));
  }
  operate("publish_routes", [this, p] {
    std::copy_n(p.ids, p.count, p.to_ids);
    if (p.weights != nullptr) {
      std::copy_n(p.weights, p.count, p.to_weights);
      std::memcpy(p.to_x, p.x.data,
                  static_cast<size_t>(p.x.rows * p.x.cols * dtype_size(p.x.dtype)));
    }
    LS_CHECK_MSG(*p.ready == 0, "the word is from an earlier step");
    *p.ready = 1;
    // Whoever reads the word knows that all before it is done.
    transfers_.operations_seen_ = operations_;
    published_seconds_ = device_seconds_;
  });
}

void FakeDevice::take_routes(const kernels::TakeRoutesParams& p) {
  using kernels::RouteDecision;
  LS_CHECK(!memory_.contains(p.decisions));
  check_inside(p.blocks.base, "the blocks of experts");
  check_inside(p.table, "the table of experts");
  check_inside(p.to_now, "to_now");
  check_inside(p.to_later, "to_later");
  enqueue({"a wait", {}, [p] {
             return std::all_of(p.decisions, p.decisions + p.count, [&](const uint64_t& word) {
               const uint64_t tag = std::atomic_ref<const uint64_t>(word).load() >> 48;
               return tag == p.tag || tag == RouteDecision::kAny;
             });
           }});
  operate("take_routes", [p] {
    for (int64_t i = 0; i < p.count; ++i) {
      const uint64_t word = p.decisions[i];
      const uint64_t who = word >> 30 & 3;
      const auto expert = static_cast<int32_t>(word >> 32 & 0xFFFF);
      p.to_now[i] = who == RouteDecision::kNow ? expert : -1;
      p.to_later[i] = who == RouteDecision::kLater ? expert : -1;
      if (who != RouteDecision::kLater) continue;
      const auto block = static_cast<int64_t>(word & (RouteDecision::kMostBlocks - 1));
      const std::byte* place = p.blocks.base + block * p.blocks.stride;
      p.table[expert].gate.data = place;
      p.table[expert].up.data = place + p.blocks.up;
      p.table[expert].down.data = place + p.blocks.down;
    }
  });
}

void FakeDevice::add_when(const kernels::AddParams& p, const int32_t* word) {
  check_inside(p.y.data, "y");
  wait_for_word(word, 1);
  operate("add_when", [this, p, word] {
    if (*word != kThere) return;
    inner_->add(p);
    if (!times_) return;
    // Before it wrote the word the host had waited for the routes and computed.
    host_saw(published_seconds_);
    host_seconds_ += times_->host_sum;
    device_seconds_ = std::max(device_seconds_, host_seconds_);
  });
}

void FakeDevice::signal_copied(int32_t* word) {
  LS_CHECK(!memory_.contains(word));
  transfers_.pending_.push_back({.to = nullptr, .host = nullptr, .bytes = 0, .word = word});
}

void FakeDevice::begin_capture() {
  LS_CHECK(!capturing_ && queue_.empty());
  capturing_ = true;
  captured_.clear();
  live_bytes_ = memory_.live_bytes();
}

Result<FakeDevice::Id> FakeDevice::end_capture() {
  LS_CHECK(capturing_);
  LS_CHECK_MSG(memory_.live_bytes() == live_bytes_, "memory was taken while capturing");
  capturing_ = false;
  graphs_[++last_graph_] = std::move(captured_);
  captured_.clear();
  if (fail_when_serving_ > 0) fail_at(fail_when_serving_);
  if (--fail_capture_in == 0) return fail(ErrorKind::kDevice, "a capture: told to fail");
  return last_graph_;
}

void FakeDevice::launch(Id id) {
  LS_CHECK(!capturing_);
  ++launches;
  for (const Queued& work : graphs_.at(id)) {
    queued_ += work.run ? 1 : 0;
    queue_.push_back(work);
    queue_.back().from = host_seconds_;
  }
  progress();
}

void FakeDevice::drop(Id id) {
  LS_CHECK(graphs_.erase(id) == 1);
}

void FakeDevice::stamp(uint64_t* to) {
  check_inside(to, "a stamp's place");
  operate(kStampName, [this, to] { *to = nanoseconds_; });
}

Result<void> FakeDevice::synchronize() {
  LS_CHECK_MSG(!capturing_, "nothing runs while it is captured");
  transfers_.run_copies(static_cast<int64_t>(transfers_.pending_.size()));
  progress();
  LS_CHECK_MSG(queue_.empty(), "{} operations wait for a word that nobody will write",
               queue_.size());
  transfers_.operations_seen_ = operations_;
  host_saw(device_seconds_);
  if (fault_) return tl::unexpected<Error>(*fault_);
  return {};
}

void FakeDevice::embed(const kernels::EmbedParams& p) {
  check_inside(p.ids, "ids");
  check_weight(p.table);
  check_inside(p.y.data, "y");
  operate("embed", [this, p] { inner_->embed(p); });
}

void FakeDevice::gather_rows(const kernels::GatherRowsParams& p) {
  check_inside(p.x.data, "x");
  check_inside(p.rows, "rows");
  check_inside(p.y.data, "y");
  operate("gather_rows", [this, p] { inner_->gather_rows(p); });
}

void FakeDevice::rms_norm(const kernels::RmsNormParams& p) {
  check_inside(p.x.data, "x");
  check_inside(p.weight, "weight");
  check_inside(p.y.data, "y");
  operate("rms_norm", [this, p] { inner_->rms_norm(p); });
}

void FakeDevice::linear(const kernels::LinearParams& p) {
  check_inside(p.x.data, "x");
  check_weight(p.w);
  check_inside(p.y.data, "y");
  operate("linear", [this, p] { inner_->linear(p); });
}

void FakeDevice::head_linear(const kernels::HeadLinearParams& p) {
  check_inside(p.x.data, "x");
  check_weight(p.w);
  check_inside(p.y.data, "y");
  operate("head_linear", [this, p] { inner_->head_linear(p); });
}

void FakeDevice::rope(const kernels::RopeParams& p) {
  check_inside(p.x.data, "x");
  check_inside(p.positions, "positions");
  check_inside(p.inv_freq, "inv_freq");
  check_inside(p.y.data, "y");
  operate("rope", [this, p] { inner_->rope(p); });
}

void FakeDevice::silu_mul(const kernels::SiluMulParams& p) {
  check_inside(p.gate.data, "gate");
  check_inside(p.up.data, "up");
  check_inside(p.y.data, "y");
  operate("silu_mul", [this, p] { inner_->silu_mul(p); });
}

void FakeDevice::latent_store(const kernels::LatentStoreParams& p) {
  check_inside(p.kv.data, "kv");
  check_inside(p.norm_weight, "norm_weight");
  check_inside(p.inv_freq, "inv_freq");
  check_batch(p.batch);
  check_inside(p.cache.data, "the latent cache");
  operate("latent_store", [this, p] { inner_->latent_store(p); });
}

void FakeDevice::index_key_store(const kernels::IndexKeyStoreParams& p) {
  check_inside(p.k.data, "k");
  check_inside(p.norm_weight, "norm_weight");
  check_inside(p.norm_bias, "norm_bias");
  check_inside(p.inv_freq, "inv_freq");
  check_batch(p.batch);
  check_inside(p.cache.data, "the index key cache");
  operate("index_key_store", [this, p] { inner_->index_key_store(p); });
}

void FakeDevice::index_gather(const kernels::IndexGatherParams& p) {
  check_inside(p.cache.data, "the index key cache");
  check_inside(p.page_table, "page_table");
  check_inside(p.seq_lens, "seq_lens");
  check_inside(p.keys, "keys");
  check_inside(p.scales, "scales");
  operate("index_gather", [this, p] { inner_->index_gather(p); });
}

void FakeDevice::index_select(const kernels::IndexSelectParams& p) {
  check_inside(p.q.data, "q");
  check_inside(p.head_weights.data, "head_weights");
  check_inside(p.inv_freq, "inv_freq");
  check_batch(p.batch);
  check_inside(p.cache.data, "the index key cache");
  check_inside(p.selected, "selected");
  check_inside(p.counts, "counts");
  if (p.scores.data != nullptr) check_inside(p.scores.data, "scores");
  operate("index_select", [this, p] { inner_->index_select(p); });
}

void FakeDevice::sparse_mla(const kernels::SparseMlaParams& p) {
  check_inside(p.q_c.data, "q_c");
  check_inside(p.q.data, "q");
  check_batch(p.batch);
  check_inside(p.cache.data, "the latent cache");
  check_inside(p.selected, "selected");
  check_inside(p.counts, "counts");
  check_inside(p.o.data, "o");
  operate(
      "sparse_mla", [this, p] { inner_->sparse_mla(p); }, p.o.rows);
}

void FakeDevice::router(const kernels::RouterParams& p) {
  check_inside(p.logits.data, "logits");
  check_inside(p.bias, "bias");
  check_inside(p.ids, "ids");
  check_inside(p.weights, "weights");
  operate("router", [this, p] { inner_->router(p); });
}

void FakeDevice::check_experts(const kernels::ExpertsParams& p) const {
  check_inside(p.x.data, "x");
  check_inside(p.ids, "ids");
  check_inside(p.weights, "weights");
  check_inside(p.experts, "the table of experts");
  check_inside(p.y.data, "y");
}

void FakeDevice::run_experts(const kernels::ExpertsParams& p) {
  for (int64_t e = 0; e < p.num_experts; ++e) {
    for (const WeightView* w : {&p.experts[e].gate, &p.experts[e].up, &p.experts[e].down})
      check_weight_place(*w);
  }
  for (int64_t i = 0; i < p.x.rows * p.top_k; ++i) {
    if (p.ids[i] < 0) continue;
    const kernels::ExpertView& e = p.experts[p.ids[i]];
    for (const WeightView* w : {&e.gate, &e.up, &e.down}) {
      check_weight(*w);
      transfers_.last_use_[w->data] = operations_;
    }
  }
  inner_->experts(p);
}

void FakeDevice::experts(const kernels::ExpertsParams& p) {
  check_experts(p);
  operate(
      "experts", [this, p] { run_experts(p); }, p.x.rows);
}

void FakeDevice::experts_by(size_t variant, const kernels::ExpertsParams& p, bool w8a8) {
  check_experts(p);
  operate(w8a8 ? "experts w8a8" : "experts w8a16", [this, variant, p] {
    const auto begin = std::chrono::steady_clock::now();
    run_experts(p);
    if (static_cast<int64_t>(variant) == wrong_form) *p.y.row_as<float>(0) += 1;
    if (!form_seconds) return;
    const std::chrono::duration<double> wanted(form_seconds(variant, p.x.rows));
    while (std::chrono::steady_clock::now() - begin < wanted) {
    }
  });
}

void FakeDevice::mask_routes(const kernels::MaskRoutesParams& p) {
  check_inside(p.ids, "ids");
  check_inside(p.keep, "keep");
  check_inside(p.out, "out");
  operate("mask_routes", [this, p] { inner_->mask_routes(p); });
}

void FakeDevice::add(const kernels::AddParams& p) {
  check_inside(p.y.data, "y");
  operate("add", [this, p] { inner_->add(p); });
}

void FakeDevice::draw(const kernels::DrawParams& p) {
  check_inside(p.logits.data, "logits");
  if (!p.greedy) check_inside(p.rules, "rules");
  check_inside(p.ids, "ids");
  operate("draw", [this, p] {
    if (spoil_logits)
      *const_cast<float*>(p.logits.row_as<float>(0)) = std::numeric_limits<float>::quiet_NaN();
    inner_->draw(p);
  });
}

Result<void> FakeTransfers::pin(const std::byte* data, int64_t bytes) {
  if (refuse_pins) return fail(ErrorKind::kMemory, "the fake device was told to refuse");
  LS_CHECK(pins_.emplace(data, bytes).second);
  pinned_bytes += bytes;
  return {};
}

void FakeTransfers::unpin(const std::byte* data) {
  const auto found = pins_.find(data);
  LS_CHECK(found != pins_.end());
  pinned_bytes -= found->second;
  pins_.erase(found);
}

void FakeTransfers::queue(const Pending& work) {
  device_.check_inside(work.to, "a copy's target");
  if (const auto use = last_use_.find(work.to); use != last_use_.end()) {
    LS_CHECK_MSG(use->second <= operations_seen_,
                 "a copy over what operation {} reads, and it came after {} only", use->second,
                 operations_seen_);
  }
  const FakeMemory::Access access(device_.memory_);
  for (int64_t r = 0; r < work.rows; ++r)
    std::memset(work.to + r * work.stride, 0xFF, static_cast<size_t>(work.bytes));
  pending_.push_back(work);
  now_ = std::max({now_, may_run_, device_.host_seconds_});
  if (device_.times_)
    now_ += static_cast<double>(work.rows * work.bytes) * device_.times_->copied_byte;
}

void FakeTransfers::copy(std::byte* to, const std::byte* host, int64_t bytes) {
  copy_rows(to, host, 1, bytes, bytes);
  --copies_of_rows;
}

void FakeTransfers::copy_rows(std::byte* to, const std::byte* host, int64_t rows, int64_t width,
                              int64_t stride) {
  LS_CHECK(host != nullptr && !device_.memory_.contains(host) && width <= stride);
  if (++copies == fail_copy_at)
    device_.fault_ = Error{ErrorKind::kDevice, "a copy on the fake device: told to fail"};
  copied_bytes += rows * width;
  ++copies_of_rows;
  if (on_copy) on_copy();
  queue({to, host, width, rows, stride});
}

void FakeTransfers::clear_rows(std::byte* to, int64_t rows, int64_t width, int64_t stride) {
  for (int64_t row = 0; row < rows; ++row) queue({to + row * stride, nullptr, width});
  cleared_bytes += rows * width;
}

void FakeTransfers::run_copies(int64_t until) {
  if (done_ >= until) return;
  const FakeMemory::Access access(device_.memory_);
  for (; done_ < until; ++done_) {
    const Pending& copy = pending_[static_cast<size_t>(done_)];
    if (copy.word != nullptr) {
      // After a fault nothing is written: nobody may rely on it.
      if (!device_.fault_) *copy.word = 1;
      continue;
    }
    for (int64_t r = 0; r < copy.rows && !device_.fault_; ++r) {
      std::byte* to = copy.to + r * copy.stride;
      if (copy.host == nullptr) {
        std::memset(to, 0, static_cast<size_t>(copy.bytes));
      } else {
        std::memcpy(to, copy.host + r * copy.stride, static_cast<size_t>(copy.bytes));
      }
    }
  }
}

void FakeTransfers::run_copies_before(const int32_t* word) {
  for (auto i = static_cast<size_t>(done_); i < pending_.size(); ++i) {
    if (pending_[i].word == word) return run_copies(static_cast<int64_t>(i) + 1);
  }
}

FakeTransfers::Mark FakeTransfers::copied() {
  // Recorded in its queue: not before what the queue waits for.
  now_ = std::max({now_, may_run_, device_.host_seconds_});
  marks_.push_back({true, static_cast<int64_t>(pending_.size()), now_});
  return marks_.size() - 1;
}

FakeTransfers::Mark FakeTransfers::computed() {
  marks_.push_back(
      {false, device_.queued_, std::max(device_.device_seconds_, device_.host_seconds_)});
  return marks_.size() - 1;
}

void FakeTransfers::compute_waits_for(Mark copied) {
  LS_CHECK(copied == 0 || point(copied).of_copies);
  LS_CHECK_MSG(device_.queue_.empty(), "not between waits for the host");
  if (copied == 0) return;
  run_copies(point(copied).before);
  device_.device_seconds_ = std::max(device_.device_seconds_, point(copied).seconds);
}

void FakeTransfers::copy_waits_for(Mark computed) {
  LS_CHECK(!point(computed).of_copies && device_.operations_ >= point(computed).before);
  operations_seen_ = std::max(operations_seen_, point(computed).before);
  may_run_ = std::max(may_run_, point(computed).seconds);
}

bool FakeTransfers::passed(Mark mark) {
  const Point& at = point(mark);
  if (!at.of_copies) {
    device_.progress();
    if (device_.operations_ < at.before) return false;
  }
  // Who asks again waits.
  const bool waits = std::exchange(asked_, mark) == mark;
  if (at.seconds > device_.host_seconds_ && !waits) return false;
  device_.host_saw(at.seconds);
  if (at.of_copies) {
    run_copies(at.before);
  } else {
    operations_seen_ = std::max(operations_seen_, at.before);
  }
  return true;
}

std::optional<double> FakeTransfers::seconds_between(Mark from, Mark to) {
  if (!device_.times_) return std::nullopt;
  return point(to).seconds - point(from).seconds;
}

}  // namespace longshore
