#include <algorithm>
#include <atomic>

#include "device/cuda/transfers.h"
#include "device/cuda/words.h"

namespace longshore::device::cuda {
namespace {

// A layer of 256 experts records up to three marks each, and the host may be a layer ahead.
constexpr size_t kEvents = 4096;

class MappedMemory final : public Memory {
 public:
  [[nodiscard]] bool host() const override { return true; }
  [[nodiscard]] int64_t available() const override { return INT64_MAX; }

  [[nodiscard]] Result<std::byte*> allocate(int64_t bytes, const char* what) override {
    void* data = nullptr;
    const cudaError_t status =
        cudaHostAlloc(&data, static_cast<size_t>(bytes), cudaHostAllocMapped);
    if (status == cudaSuccess) return static_cast<std::byte*>(data);
    (void)cudaGetLastError();
    return fail(ErrorKind::kMemory, "{}: cannot allocate {} bytes of mapped host memory: {}", what,
                bytes, describe(status));
  }
  void free(std::byte* data, int64_t) override { (void)cudaFreeHost(data); }

  [[nodiscard]] Result<void> upload(std::byte* to, const void* host, int64_t bytes) override {
    std::copy_n(static_cast<const std::byte*>(host), bytes, to);
    return {};
  }
  [[nodiscard]] Result<void> download(void* host, const std::byte* from, int64_t bytes) override {
    std::copy_n(from, bytes, static_cast<std::byte*>(host));
    return {};
  }
};

}  // namespace

Result<std::unique_ptr<CudaTransfers>> CudaTransfers::create(Context& context) {
  std::unique_ptr<CudaTransfers> made(new CudaTransfers(context));
  made->mapped_ = std::make_unique<MappedMemory>();
  // Clearing is done by the device's processors: before what the other queue has for them.
  int highest = 0;
  cudaError_t status = cudaDeviceGetStreamPriorityRange(nullptr, &highest);
  if (status == cudaSuccess)
    status = cudaStreamCreateWithPriority(&made->stream_, cudaStreamNonBlocking, highest);
  made->events_.resize(kEvents, nullptr);
  for (cudaEvent_t& event : made->events_) {
    if (status == cudaSuccess) status = cudaEventCreate(&event);
  }
  if (status == cudaSuccess) return made;
  return fail(ErrorKind::kDevice, "creating the copy stream: {}", describe(status));
}

CudaTransfers::~CudaTransfers() {
  if (stream_ != nullptr) (void)cudaStreamSynchronize(stream_);
  for (const std::byte* data : pinned_) (void)cudaHostUnregister(const_cast<std::byte*>(data));
  for (const cudaEvent_t event : events_) {
    if (event != nullptr) (void)cudaEventDestroy(event);
  }
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

Result<void> CudaTransfers::pin(const std::byte* data, int64_t bytes) {
  const cudaError_t status = cudaHostRegister(const_cast<std::byte*>(data),
                                              static_cast<size_t>(bytes), cudaHostRegisterDefault);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    return fail(ErrorKind::kMemory, "the system does not lock {:.2f} GB of host memory: {}",
                static_cast<double>(bytes) / 1e9, describe(status));
  }
  pinned_.push_back(data);
  return {};
}

void CudaTransfers::unpin(const std::byte* data) {
  const auto found = std::find(pinned_.begin(), pinned_.end(), data);
  LS_CHECK(found != pinned_.end());
  context_.check(cudaHostUnregister(const_cast<std::byte*>(data)), "unlocking host memory");
  pinned_.erase(found);
}

void CudaTransfers::copy(std::byte* to, const std::byte* host, int64_t bytes) {
  context_.check(
      cudaMemcpyAsync(to, host, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_),
      "copying an expert");
}

void CudaTransfers::copy_rows(std::byte* to, const std::byte* host, int64_t rows, int64_t width,
                              int64_t stride) {
  const auto pitch = static_cast<size_t>(stride);
  context_.check(cudaMemcpy2DAsync(to, pitch, host, pitch, static_cast<size_t>(width),
                                   static_cast<size_t>(rows), cudaMemcpyHostToDevice, stream_),
                 "copying a part of an expert");
}

void CudaTransfers::clear_rows(std::byte* to, int64_t rows, int64_t width, int64_t stride) {
  context_.check(cudaMemset2DAsync(to, static_cast<size_t>(stride), 0, static_cast<size_t>(width),
                                   static_cast<size_t>(rows), stream_),
                 "clearing an expert's place");
}

void CudaTransfers::signal(int32_t* word) {
  if (write_word(context_, stream_, word, 1)) return;
  // The context has the fault; what waits goes on.
  std::atomic_ref<int32_t>(*word).store(1, std::memory_order_release);
}

Transfers::Mark CudaTransfers::record(cudaStream_t stream) {
  const Mark mark = ++last_;
  const cudaEvent_t event = events_[mark % kEvents];
  // Long passed, unless the host is thousands of marks ahead.
  if (mark > kEvents) context_.check(cudaEventSynchronize(event), "waiting for an old mark");
  context_.check(cudaEventRecord(event, stream), "recording a mark");
  return mark;
}

cudaEvent_t CudaTransfers::event_of(Mark mark) const {
  LS_CHECK(mark <= last_);
  return mark == 0 || last_ - mark >= kEvents ? nullptr : events_[mark % kEvents];
}

void CudaTransfers::wait(cudaStream_t stream, Mark mark) {
  const cudaEvent_t event = event_of(mark);
  if (event != nullptr)
    context_.check(cudaStreamWaitEvent(stream, event, 0), "ordering two streams");
}

bool CudaTransfers::passed(Mark mark) {
  const cudaEvent_t event = event_of(mark);
  if (event == nullptr) return true;
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) return false;
  context_.check(status, "the GPU's work");
  return true;
}

std::optional<double> CudaTransfers::seconds_between(Mark from, Mark to) {
  const cudaEvent_t begin = event_of(from);
  const cudaEvent_t end = event_of(to);
  float milliseconds = 0;
  if (begin == nullptr || end == nullptr ||
      cudaEventElapsedTime(&milliseconds, begin, end) != cudaSuccess) {
    (void)cudaGetLastError();
    return std::nullopt;
  }
  return static_cast<double>(milliseconds) * 1e-3;
}

}  // namespace longshore::device::cuda
