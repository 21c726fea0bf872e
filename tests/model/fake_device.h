// A device without hardware: a host backend whose memory cannot be read or written by the host
// except inside an operation, an upload or a download. A stray host access is a segmentation fault;
// a pointer of an operation that does not lie in that memory ends the program.
//
// Operations run in their order as soon as nothing before them waits for the host; what waits goes
// on when somebody asks (passed(), another operation, synchronize()). A queue that waits for a word
// when it is synchronised ends the program: nobody would ever write it. What operations write may
// only be relied on after synchronize(), a mark that passed or a word, as on a real device. The
// memory is closed for the whole process, so one thread at a time may run operations.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/graphs.h"
#include "device/memory.h"
#include "device/stamps.h"
#include "device/transfers.h"
#include "kernels/backend.h"
#include "kernels/moe_tuning.h"
#include "kernels/route_exchange.h"

namespace longshore {

// One address range, closed with PROT_NONE but while an Access lives.
class FakeMemory final : public device::Memory {
 public:
  explicit FakeMemory(int64_t capacity);
  ~FakeMemory() override;
  FakeMemory(const FakeMemory&) = delete;
  FakeMemory& operator=(const FakeMemory&) = delete;

  [[nodiscard]] bool host() const override { return false; }
  [[nodiscard]] Result<std::byte*> allocate(int64_t bytes, const char* what) override;
  void free(std::byte* data, int64_t bytes) override;
  [[nodiscard]] int64_t available() const override { return capacity_ - used_; }
  [[nodiscard]] Result<void> upload(std::byte* to, const void* host, int64_t bytes) override;
  [[nodiscard]] Result<void> download(void* host, const std::byte* from, int64_t bytes) override;

  [[nodiscard]] bool contains(const void* data) const;
  [[nodiscard]] int64_t live_bytes() const { return live_; }

  class Access {
   public:
    explicit Access(FakeMemory& memory) : memory_(memory) { memory_.open(); }
    ~Access() { memory_.close(); }
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;

   private:
    FakeMemory& memory_;
  };

  int64_t uploads = 0;
  int64_t downloads = 0;

 private:
  void open();
  void close();
  void protect(int protection);

  std::byte* base_ = nullptr;   // aligned to huge pages
  std::byte* range_ = nullptr;  // what mmap gave
  int64_t capacity_;
  int64_t reserved_;
  int64_t used_ = 0;  // [0, used_) has been handed out; only the last piece comes back
  int64_t live_ = 0;  // bytes of live allocations
};

class FakeDevice;

// What things take in a model of time, seconds. The host's clock, the operations' and the wire's
// run beside each other and meet where one waits for another, as on a device; the host's own work
// takes nothing but for the experts that it computes.
struct FakeTimes {
  std::function<double(const std::string& operation, int64_t rows)> operation;
  double copied_byte = 0;
  double host_sum = 0;  // the host's experts of a layer
};

// The fake wire. Copies happen as late as they may: when something waits for them. Until then NaN
// stands where they go. A copy over what a queued operation still reads, which the wire was not
// told to wait for, ends the program.
class FakeTransfers final : public device::Transfers {
 public:
  explicit FakeTransfers(FakeDevice& device) : device_(device) {}

  [[nodiscard]] Result<void> pin(const std::byte* data, int64_t bytes) override;
  void unpin(const std::byte* data) override;
  [[nodiscard]] device::Memory& mapped() override { return device::host_memory(); }
  void copy(std::byte* to, const std::byte* host, int64_t bytes) override;
  void copy_rows(std::byte* to, const std::byte* host, int64_t rows, int64_t width,
                 int64_t stride) override;
  void clear_rows(std::byte* to, int64_t rows, int64_t width, int64_t stride) override;
  [[nodiscard]] Mark copied() override;
  [[nodiscard]] Mark computed() override;
  void compute_waits_for(Mark copied) override;
  void copy_waits_for(Mark computed) override;
  [[nodiscard]] bool passed(Mark mark) override;
  // With times only.
  [[nodiscard]] std::optional<double> seconds_between(Mark from, Mark to) override;

  bool refuse_pins = false;
  int64_t pinned_bytes = 0;
  int64_t copies = 0;
  int64_t copied_bytes = 0;
  int64_t copies_of_rows = 0;  // of the copies
  int64_t cleared_bytes = 0;
  int64_t fail_copy_at = -1;      // the copy of that number, and all work after it
  std::function<void()> on_copy;  // as each is queued

 private:
  friend class FakeDevice;
  // A copy, zeros if host is null, or a word to be written behind those before it.
  struct Pending {
    std::byte* to;
    const std::byte* host;
    int64_t bytes;  // of a row
    int64_t rows = 1;
    int64_t stride = 0;
    int32_t* word = nullptr;
  };
  // NaN stands there until it runs.
  void queue(const Pending& work);
  struct Point {
    bool of_copies;
    int64_t before;      // copies or operations queued before it
    double seconds = 0;  // when it passes, if there are times
  };
  void run_copies(int64_t until);
  // Up to the word's, if it is on its way.
  void run_copies_before(const int32_t* word);
  [[nodiscard]] const Point& point(Mark mark) const { return marks_[mark]; }

  FakeDevice& device_;
  std::vector<Pending> pending_;  // all that were queued
  int64_t done_ = 0;              // of these
  std::vector<Point> marks_ = {{false, 0}};
  double now_ = 0;               // when the last copy so far is there
  double may_run_ = 0;           // from when on the next one may
  Mark asked_ = 0;               // by the last passed()
  int64_t operations_seen_ = 0;  // that copies from now on come after
  std::map<const std::byte*, int64_t>
      last_use_;  // a weight's place -> the last operation that read it
  std::map<const std::byte*, int64_t> pins_;
};

class FakeDevice final : public kernels::Backend,
                         public device::Graphs,
                         public device::Stamps,
                         public kernels::MoeTuning,
                         public kernels::RouteExchange {
 public:
  // inner: a host backend, whose arithmetic this has.
  explicit FakeDevice(std::unique_ptr<kernels::Backend> inner, int64_t capacity = int64_t{1} << 32);

  // Operation number n from now on (1: the next), and all after it, do nothing: synchronize() says
  // so from then on.
  void fail_at(int64_t n) { fail_at_ = operations_ + n; }
  // The same, counted anew from the end of every capture: the start's own operations do not count.
  void fail_when_serving(int64_t n) {
    fail_when_serving_ = n;
    fail_at(n);
  }
  [[nodiscard]] int64_t operations() const { return operations_; }
  // Calls by operation, "copy_ints" among them.
  std::map<std::string, int64_t> calls;

  [[nodiscard]] std::string_view name() const override { return "fake"; }
  [[nodiscard]] DType activation_dtype() const override { return inner_->activation_dtype(); }
  [[nodiscard]] DType latent_dtype() const override { return inner_->latent_dtype(); }
  [[nodiscard]] DType index_key_dtype() const override { return inner_->index_key_dtype(); }

  [[nodiscard]] FakeMemory& memory() override { return memory_; }
  void copy_ints(const int32_t* host, int64_t count, int32_t* to) override;
  void copy_out(const std::byte* from, int64_t bytes, std::byte* to) override;
  void wait_for_host(const int32_t* flag, int32_t value) override;
  [[nodiscard]] FakeTransfers* transfers() override { return has_wire ? &transfers_ : nullptr; }
  bool has_wire = true;
  [[nodiscard]] Result<void> synchronize() override;

  bool concurrent() const override { return concurrent_; }
  void publish_routes(const kernels::PublishRoutesParams& p) override;
  void take_routes(const kernels::TakeRoutesParams& p) override;
  void add_when(const kernels::AddParams& p, const int32_t* word) override;
  void signal_copied(int32_t* word) override;

  void begin_capture() override;
  [[nodiscard]] Result<Id> end_capture() override;
  void launch(Id id) override;
  void drop(Id id) override;
  int64_t launches = 0;          // of graphs
  int64_t fail_capture_in = -1;  // captures from now
  [[nodiscard]] size_t live_graphs() const { return graphs_.size(); }

  // From now on, with nothing queued. Operations that wait for words take no time before these.
  void set_times(FakeTimes times) { times_ = std::move(times); }
  // The host's clock.
  [[nodiscard]] double host_seconds() const { return host_seconds_; }

  // Its clock: every operation takes kOperation nanoseconds, a stamp kStamp.
  void stamp(uint64_t* to) override;
  static constexpr uint64_t kOperation = 1000;
  static constexpr uint64_t kStamp = 10;

  void embed(const kernels::EmbedParams& p) override;
  void gather_rows(const kernels::GatherRowsParams& p) override;
  void rms_norm(const kernels::RmsNormParams& p) override;
  void linear(const kernels::LinearParams& p) override;
  void head_linear(const kernels::HeadLinearParams& p) override;
  void rope(const kernels::RopeParams& p) override;
  void silu_mul(const kernels::SiluMulParams& p) override;
  void latent_store(const kernels::LatentStoreParams& p) override;
  void index_key_store(const kernels::IndexKeyStoreParams& p) override;
  void index_gather(const kernels::IndexGatherParams& p) override;
  void index_select(const kernels::IndexSelectParams& p) override;
  void sparse_mla(const kernels::SparseMlaParams& p) override;
  void router(const kernels::RouterParams& p) override;
  void experts(const kernels::ExpertsParams& p) override;
  void mask_routes(const kernels::MaskRoutesParams& p) override;
  void add(const kernels::AddParams& p) override;
  void draw(const kernels::DrawParams& p) override;

  // All forms of the experts' products compute what inner's does, form_seconds(form, tokens) later;
  // wrong_form adds 1 to the first sum.
  [[nodiscard]] std::string device_name() const override { return "Fake GPU"; }
  [[nodiscard]] std::vector<size_t> expert_variants(const kernels::ExpertsParams&) override {
    return forms;
  }
  void experts_by(size_t variant, const kernels::ExpertsParams& p, bool w8a8) override;
  std::vector<size_t> forms = {0, 1, 2, 3, 4, 5};
  std::function<double(size_t form, int64_t tokens)> form_seconds;
  int64_t wrong_form = -1;
  bool spoil_logits = false;  // the first row's logits are NaN from now on

  bool concurrent_ = true;  // tests may say no

 private:
  friend class FakeTransfers;
  void check_experts(const kernels::ExpertsParams& p) const;
  void run_experts(const kernels::ExpertsParams& p);
  // Queued work: an operation, or a wait.
  struct Queued {
    const char* what;
    std::function<void()> run;         // of an operation
    std::function<bool()> there = {};  // of a wait: what it waits for
    const int32_t* word = nullptr;     // that a copy may be about to write
    int64_t rows = 0;                  // of an operation
    double from = 0;                   // when the host queued it
  };
  // An operation is counted when it runs, with the memory open, unless the device has failed.
  void operate(const char* what, std::function<void()> run, int64_t rows = 0);
  void wait_for_word(const int32_t* word, int32_t value);
  void enqueue(Queued work);
  // Runs what waits for nothing.
  void progress();
  // The host has waited for what the device or the wire has done.
  void host_saw(double seconds) { host_seconds_ = std::max(host_seconds_, seconds); }
  void check_inside(const void* data, const char* what) const;
  void check_weight(const WeightView& w) const;
  void check_weight_place(const WeightView& w) const;
  void check_batch(const kernels::BatchView& batch) const;

  FakeMemory memory_;  // outlives inner_
  FakeTransfers transfers_{*this};
  std::unique_ptr<kernels::Backend> inner_;
  std::deque<Queued> queue_;
  int64_t queued_ = 0;  // operations so far
  bool running_ = false;
  bool capturing_ = false;
  int64_t live_bytes_ = 0;  // when capturing began
  std::vector<Queued> captured_;
  std::map<Id, std::vector<Queued>> graphs_;
  Id last_graph_ = 0;
  uint64_t nanoseconds_ = 0;
  std::optional<FakeTimes> times_;
  double host_seconds_ = 0;
  double device_seconds_ = 0;     // when the last operation so far is done
  double published_seconds_ = 0;  // when the last routes were
  int64_t fail_when_serving_ = -1;
  // A test sets the fault while the engine's thread works.
  std::atomic<int64_t> operations_ = 0;  // that have run
  std::atomic<int64_t> fail_at_ = -1;
  std::optional<Error> fault_;
};

}  // namespace longshore
