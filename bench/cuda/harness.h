// What the benches of the CUDA kernels share: ceilings measured in the same run, times of captured
// graphs, one line of text per case.
//
// Each file of rows registers its groups (`const bool kRegistered = add_group("name", rows)`), and
// the program runs all of them or those named on its command line.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "device/buffer.h"
#include "device/cuda/context.h"

namespace longshore::bench::cuda {

using device::cuda::Context;

class Harness {
 public:
  // Ends the program with a line of text where there is no device.
  Harness();

  [[nodiscard]] Context& context() { return *context_; }
  // Bytes read plus bytes written per second by the better of cudaMemcpy and a kernel of 16-byte
  // loads and stores, on arrays of GiBs.
  [[nodiscard]] double copy_bytes_per_second() const { return copy_; }
  // Bytes per second of a kernel that only reads.
  [[nodiscard]] double read_bytes_per_second() const { return read_; }

  // Device memory that lives as long as the harness's current group.
  template <typename T>
  [[nodiscard]] T* allocate(int64_t count) {
    return reinterpret_cast<T*>(bytes(count * static_cast<int64_t>(sizeof(T))));
  }
  template <typename T>
  [[nodiscard]] T* upload(const std::vector<T>& host) {
    T* data = allocate<T>(static_cast<int64_t>(host.size()));
    put(data, host.data(), static_cast<int64_t>(host.size() * sizeof(T)));
    return data;
  }
  template <typename T>
  [[nodiscard]] std::vector<T> download(const T* data, int64_t count) {
    std::vector<T> host(static_cast<size_t>(count));
    get(host.data(), data, count * static_cast<int64_t>(sizeof(T)));
    return host;
  }
  // Random bits; as_bf16: normal-like bf16 values instead. FP8 codes never are NaN.
  void fill_fp8(std::byte* data, int64_t bytes);
  void fill_bf16(void* data, int64_t count);
  void fill_floats(float* data, int64_t count, float scale, float offset = 0);
  void poison(void* data, int64_t bytes);

  // Seconds of one call: work(i) queues call i on the context's stream; `inner` calls are captured
  // in a graph, and the median of `samples` timed launches counts. The i lets work rotate over
  // buffers larger together than the L2 cache.
  [[nodiscard]] double seconds(const std::function<void(int)>& work, int inner, int samples = 9);

  // name, microseconds, bytes per second with its share of `ceiling`, operations per second, and
  // whether the results were right.
  void row(const std::string& name, double seconds, double bytes, double ceiling, double operations,
           const std::string& verdict);
  // Whether every result so far was right.
  [[nodiscard]] bool right() const { return right_; }
  void release() { buffers_.clear(); }
  void synchronize();

 private:
  [[nodiscard]] std::byte* bytes(int64_t count);
  void put(void* to, const void* host, int64_t count);
  void get(void* host, const void* from, int64_t count);
  void measure_ceilings();

  std::unique_ptr<Context> context_;
  std::vector<device::Buffer> buffers_;
  double copy_ = 0;
  double read_ = 0;
  bool right_ = true;
  uint32_t seed_ = 1;
};

struct Group {
  std::string name;
  void (*run)(Harness&);
};
[[nodiscard]] std::vector<Group>& groups();
bool add_group(const char* name, void (*run)(Harness&));

}  // namespace longshore::bench::cuda
