// Stands where liblongshore_cuda.so is looked for: the cpu's arithmetic in memory that the program
// cannot read (tests/model/fake_device.h). LONGSHORE_FAKE_FAIL_AT=N: operation N after the
// model's start and all after it fail.
#include "kernels/cuda/entry.h"

#include <cstdlib>
#include <memory>

#include "base/threads.h"
#include "tests/model/fake_device.h"

extern "C" longshore::kernels::Backend* longshore_cuda_create_3(
    const longshore::kernels::CudaOptions& options, longshore::Error& error) {
  using longshore::FakeDevice;
  if (options.device != 0) {
    error = {longshore::ErrorKind::kDevice,
             fmt::format("there is no CUDA device {}: this machine has 1", options.device)};
    return nullptr;
  }
  static longshore::ThreadPool pool(2);
  auto inner = longshore::kernels::make_cpu_backend(pool, "auto");
  if (!inner) {
    error = inner.error();
    return nullptr;
  }
  auto device = std::make_unique<FakeDevice>(std::move(*inner));
  if (const char* at = std::getenv("LONGSHORE_FAKE_FAIL_AT"))
    device->fail_when_serving(std::atoll(at));
  return device.release();
}
