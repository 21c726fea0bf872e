#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <fmt/format.h>

#include "bench/cuda/harness.h"

namespace longshore::bench::cuda {
namespace {

constexpr int kThreads = 256;

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  fmt::print(stderr, "{}: {}\n", what, device::cuda::describe(status));
  std::exit(5);
}

__global__ void copy_kernel(const uint4* from, uint4* to, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    __stcs(to + i, __ldcs(from + i));
  }
}

__global__ void read_kernel(const uint4* from, int64_t count, uint32_t* sink) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  uint32_t sum = 0;
#pragma unroll 8
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    const uint4 four = __ldcs(from + i);
    sum += four.x ^ four.y ^ four.z ^ four.w;
  }
  if (sum == 0x12345678u) *sink = sum;
}

__device__ uint32_t random_bits(uint64_t i, uint32_t seed) {
  uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return static_cast<uint32_t>(x >> 32);
}

// About normal: the sum of four bytes, centred, with deviation 1.
__device__ float random_normal(uint64_t i, uint32_t seed) {
  const uint32_t bits = random_bits(i, seed);
  const uint32_t sum = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24);
  return (static_cast<float>(sum) - 510.0f) / 147.8f;
}

__global__ void fill_fp8_kernel(uint8_t* data, int64_t count, uint32_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    const uint32_t code = random_bits(static_cast<uint64_t>(i), seed) & 255u;
    data[i] = static_cast<uint8_t>((code & 127u) == 127u ? 1u : code);
  }
}

__global__ void fill_bf16_kernel(uint16_t* data, int64_t count, uint32_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    data[i] =
        static_cast<uint16_t>(__float_as_uint(random_normal(static_cast<uint64_t>(i), seed)) >> 16);
  }
}

__global__ void fill_floats_kernel(float* data, int64_t count, float scale, float offset,
                                   uint32_t seed) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    data[i] = random_normal(static_cast<uint64_t>(i), seed) * scale + offset;
  }
}

}  // namespace

std::vector<Group>& groups() {
  static std::vector<Group> all;
  return all;
}

bool add_group(const char* name, void (*run)(Harness&)) {
  groups().push_back({name, run});
  return true;
}

Harness::Harness() {
  auto made = Context::create(0, int64_t{2} << 30);
  if (!made) {
    fmt::print(stderr, "{}\n", made.error().message);
    std::exit(5);
  }
  context_ = std::move(*made);
  measure_ceilings();
}

void Harness::measure_ceilings() {
  constexpr int64_t kBytes = int64_t{2} << 30;
  auto* from = allocate<uint4>(kBytes / 16);
  auto* to = allocate<uint4>(kBytes / 16);
  auto* sink = allocate<uint32_t>(1);
  fill_fp8(reinterpret_cast<std::byte*>(from), kBytes);
  const unsigned blocks = static_cast<unsigned>(context_->multiprocessors() * 8);
  const double engine = seconds(
      [&](int) {
        require(cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, context_->stream()),
                "copying");
      },
      1);
  const double kernel = seconds(
      [&](int) { copy_kernel<<<blocks, kThreads, 0, context_->stream()>>>(from, to, kBytes / 16); },
      1);
  const double reading = seconds(
      [&](int) {
        read_kernel<<<blocks, kThreads, 0, context_->stream()>>>(from, kBytes / 16, sink);
      },
      1);
  copy_ = 2 * static_cast<double>(kBytes) / std::min(engine, kernel);
  read_ = static_cast<double>(kBytes) / reading;
  fmt::print(
      "{}, {} multiprocessors; copy {:.0f} GB/s (cudaMemcpy {:.0f}, kernel {:.0f}), read "
      "{:.0f} GB/s\n",
      context_->name(), context_->multiprocessors(), copy_ / 1e9,
      2 * static_cast<double>(kBytes) / engine / 1e9,
      2 * static_cast<double>(kBytes) / kernel / 1e9, read_ / 1e9);
  release();
}

std::byte* Harness::bytes(int64_t count) {
  auto buffer = device::Buffer::allocate(context_->memory(), count, "a bench's array");
  LS_CHECK_MSG(buffer.has_value(), "{}", buffer.error().message);
  buffers_.push_back(std::move(*buffer));
  return buffers_.back().data();
}

void Harness::put(void* to, const void* host, int64_t count) {
  const auto done = context_->memory().upload(static_cast<std::byte*>(to), host, count);
  LS_CHECK_MSG(done.has_value(), "{}", done.error().message);
}

void Harness::get(void* host, const void* from, int64_t count) {
  const auto done = context_->memory().download(host, static_cast<const std::byte*>(from), count);
  LS_CHECK_MSG(done.has_value(), "{}", done.error().message);
}

void Harness::fill_fp8(std::byte* data, int64_t count) {
  fill_fp8_kernel<<<1024, kThreads, 0, context_->stream()>>>(reinterpret_cast<uint8_t*>(data),
                                                             count, seed_++);
}

void Harness::fill_bf16(void* data, int64_t count) {
  fill_bf16_kernel<<<1024, kThreads, 0, context_->stream()>>>(static_cast<uint16_t*>(data), count,
                                                              seed_++);
}

void Harness::fill_floats(float* data, int64_t count, float scale, float offset) {
  fill_floats_kernel<<<1024, kThreads, 0, context_->stream()>>>(data, count, scale, offset,
                                                                seed_++);
}

void Harness::poison(void* data, int64_t count) {
  require(cudaMemsetAsync(data, 0xff, static_cast<size_t>(count), context_->stream()), "poison");
}

void Harness::synchronize() {
  const auto done = context_->synchronize();
  if (done) return;
  fmt::print(stderr, "{}\n", done.error().message);
  std::exit(5);
}

double Harness::seconds(const std::function<void(int)>& work, int inner, int samples) {
  cudaStream_t stream = context_->stream();
  work(0);  // loads the kernels
  synchronize();
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
  for (int i = 0; i < inner; ++i) work(i);
  require(cudaStreamEndCapture(stream, &graph), "capturing");
  require(cudaGraphInstantiate(&executable, graph, 0), "instantiating");
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  require(cudaEventCreate(&begin), "creating an event");
  require(cudaEventCreate(&end), "creating an event");
  std::vector<double> times;
  for (int s = -2; s < samples; ++s) {
    require(cudaEventRecord(begin, stream), "timing");
    require(cudaGraphLaunch(executable, stream), "launching");
    require(cudaEventRecord(end, stream), "timing");
    synchronize();
    float milliseconds = 0;
    require(cudaEventElapsedTime(&milliseconds, begin, end), "timing");
    if (s >= 0) times.push_back(milliseconds * 1e-3 / inner);
  }
  require(cudaEventDestroy(begin), "destroying");
  require(cudaEventDestroy(end), "destroying");
  require(cudaGraphExecDestroy(executable), "destroying");
  require(cudaGraphDestroy(graph), "destroying");
  std::nth_element(times.begin(), times.begin() + samples / 2, times.end());
  return times[static_cast<size_t>(samples / 2)];
}

void Harness::row(const std::string& name, double seconds, double bytes, double ceiling,
                  double operations, const std::string& verdict) {
  std::string line = fmt::format("{:<58} {:>10.2f} us", name, seconds * 1e6);
  if (bytes > 0) {
    line +=
        fmt::format(" {:>7.0f} GB/s {:>5.3f}", bytes / seconds / 1e9, bytes / seconds / ceiling);
  }
  if (operations > 0) line += fmt::format(" {:>6.1f} TFLOP/s", operations / seconds / 1e12);
  if (verdict != "ok" && !verdict.empty()) right_ = false;
  fmt::print("{}  {}\n", line, verdict);
  std::fflush(stdout);
}

}  // namespace longshore::bench::cuda
