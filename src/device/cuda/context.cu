#include <cstring>
#include <mutex>

#include "device/cuda/context.h"
#include "device/cuda/kernels.h"

namespace longshore::device::cuda {
namespace {

// What comes back from every step, its logits among it, comes through locked memory: a copy to
// other memory goes piece by piece.
constexpr int64_t kLockedBytes = int64_t{4} << 20;

class DeviceMemory final : public Memory {
 public:
  explicit DeviceMemory(cudaStream_t stream) : stream_(stream) {
    // A refusal only costs time.
    if (cudaHostAlloc(&locked_, kLockedBytes, cudaHostAllocDefault) == cudaSuccess) return;
    (void)cudaGetLastError();
    locked_ = nullptr;
  }
  ~DeviceMemory() override {
    if (locked_ != nullptr) (void)cudaFreeHost(locked_);
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  [[nodiscard]] bool host() const override { return false; }

  [[nodiscard]] Result<std::byte*> allocate(int64_t bytes, const char* what) override {
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
    if (status == cudaSuccess) return static_cast<std::byte*>(data);
    (void)cudaGetLastError();  // a refused allocation is not a fault of the device
    size_t free = 0;
    size_t total = 0;
    (void)cudaMemGetInfo(&free, &total);
    return fail(ErrorKind::kMemory,
                "{}: cannot allocate {:.2f} GB of device memory, {:.2f} of {:.2f} GB are free: {}",
                what, static_cast<double>(bytes) / 1e9, static_cast<double>(free) / 1e9,
                static_cast<double>(total) / 1e9, describe(status));
  }

  void free(std::byte* data, int64_t) override { (void)cudaFree(data); }

  [[nodiscard]] int64_t available() const override {
    size_t free = 0;
    size_t total = 0;
    const cudaError_t status = cudaMemGetInfo(&free, &total);
    return status == cudaSuccess ? static_cast<int64_t>(free) : 0;
  }

  [[nodiscard]] Result<void> upload(std::byte* to, const void* host, int64_t bytes) override {
    return copy(to, host, bytes, cudaMemcpyHostToDevice);
  }
  [[nodiscard]] Result<void> download(void* host, const std::byte* from, int64_t bytes) override {
    if (locked_ == nullptr || bytes > kLockedBytes)
      return copy(host, from, bytes, cudaMemcpyDeviceToHost);
    const std::lock_guard lock(mutex_);
    LS_TRY_VOID(copy(locked_, from, bytes, cudaMemcpyDeviceToHost));
    std::memcpy(host, locked_, static_cast<size_t>(bytes));
    return {};
  }

 private:
  Result<void> copy(void* to, const void* from, int64_t bytes, cudaMemcpyKind kind) {
    cudaError_t status = cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), kind, stream_);
    if (status == cudaSuccess) status = cudaStreamSynchronize(stream_);
    if (status == cudaSuccess) return {};
    return fail(ErrorKind::kDevice, "copying {} bytes {} the GPU failed: {}", bytes,
                kind == cudaMemcpyHostToDevice ? "to" : "from", describe(status));
  }

  cudaStream_t stream_;
  void* locked_ = nullptr;  // [kLockedBytes]
  std::mutex mutex_;        // of locked_
};

Result<void> tried(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return {};
  return fail(ErrorKind::kDevice, "{}: {}", what, describe(status));
}

// Compiled for the same GPUs as every kernel.
__global__ void probe() {}
LS_LOAD_AT_START(probe);

// Code for one GPU runs on no other; without this the first operation would fail, long after.
// Returns what the kernels were compiled for: 90.
Result<int> kernels_for(const cudaDeviceProp& device) {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, probe);
  if (status == cudaSuccess) return attributes.ptxVersion;
  (void)cudaGetLastError();
  const int capability = device.major * 10 + device.minor;
  return fail(ErrorKind::kDevice,
              "this build has no kernels for {} (compute capability {}.{}): build with "
              "-DLONGSHORE_CUDA_ARCHITECTURES={}{}-real ({})",
              device.name, device.major, device.minor, capability, capability >= 90 ? "a" : "",
              describe(status));
}

}  // namespace

std::string describe(cudaError_t status) {
  return fmt::format("{} ({})", cudaGetErrorString(status), cudaGetErrorName(status));
}

Result<std::unique_ptr<Context>> Context::create(int device, int64_t scratch_bytes) {
  std::unique_ptr<Context> context(new Context);
  int devices = 0;
  LS_TRY_VOID(tried(cudaGetDeviceCount(&devices), "looking for CUDA devices"));
  if (device < 0 || device >= devices) {
    return fail(ErrorKind::kDevice, "there is no CUDA device {}: this machine has {}", device,
                devices);
  }
  LS_TRY_VOID(tried(cudaSetDevice(device), "opening the CUDA device"));
  cudaDeviceProp properties{};
  LS_TRY_VOID(tried(cudaGetDeviceProperties(&properties, device), "reading the CUDA device"));
  LS_TRY(const int compiled_for, kernels_for(properties));
  LS_TRY_VOID(load_kernels());
  context->device_ = device;
  context->name_ = properties.name;
  context->capability_ = properties.major * 10 + properties.minor;
  context->launches_early_ = compiled_for >= 90;
  context->multiprocessors_ = properties.multiProcessorCount;
  context->shared_bytes_ = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  LS_TRY_VOID(tried(cudaStreamCreateWithFlags(&context->stream_, cudaStreamNonBlocking),
                    "creating a CUDA stream"));
  context->memory_ = std::make_unique<DeviceMemory>(context->stream_);
  LS_TRY(context->scratch_, context->memory_->allocate(scratch_bytes, "scratch memory"));
  context->scratch_size_ = scratch_bytes;
  return context;
}

Context::~Context() {
  if (scratch_ != nullptr) (void)cudaFree(scratch_);
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

void Context::check(cudaError_t status, const char* what) {
  if (status == cudaSuccess || fault_) return;
  fault_ = Error{ErrorKind::kDevice, fmt::format("{} on {}: {}", what, name_, describe(status))};
}

Result<void> Context::synchronize() {
  check(cudaStreamSynchronize(stream_), "the GPU's work");
  if (fault_) return tl::unexpected<Error>(*fault_);
  return {};
}

std::byte* Context::scratch_bytes(int64_t bytes) {
  constexpr int64_t kAlignment = 256;
  std::byte* data = scratch_ + scratch_used_;
  LS_CHECK_MSG(bytes >= 0 && bytes <= scratch_left(), "{} bytes of scratch memory, {} left of {}",
               bytes, scratch_left(), scratch_size_);
  scratch_used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return data;
}

}  // namespace longshore::device::cuda
