#include <vector>

#include "device/cuda/context.h"
#include "device/cuda/driver.h"
#include "device/cuda/kernels.h"

namespace longshore::device::cuda {
namespace {

std::vector<const void*>& named_kernels() {
  static std::vector<const void*> list;
  return list;
}

Result<void> tried(CUresult status, const char* what) {
  if (status == CUDA_SUCCESS) return {};
  // The driver's numbers are the runtime's.
  return fail(ErrorKind::kDevice, "loading kernels: {}: {}", what,
              describe(static_cast<cudaError_t>(status)));
}

// What the driver knows of a file's kernels.
struct Driver {
  using ModuleOf = CUresult (*)(CUmodule*, CUfunction);
  using CountOf = CUresult (*)(unsigned*, CUmodule);
  using Enumerate = CUresult (*)(CUfunction*, unsigned, CUmodule);
  using Load = CUresult (*)(CUfunction);
  using IsLoaded = CUresult (*)(CUfunctionLoadingState*, CUfunction);

  static constexpr unsigned kSince = 12040;
  ModuleOf module_of = driver_function<ModuleOf>("cuFuncGetModule");
  CountOf count_of = driver_function<CountOf>("cuModuleGetFunctionCount", kSince);
  Enumerate enumerate = driver_function<Enumerate>("cuModuleEnumerateFunctions", kSince);
  Load load = driver_function<Load>("cuFuncLoad", kSince);
  IsLoaded is_loaded = driver_function<IsLoaded>("cuFuncIsLoaded", kSince);

  [[nodiscard]] bool complete() const {
    return module_of != nullptr && count_of != nullptr && enumerate != nullptr && load != nullptr &&
           is_loaded != nullptr;
  }
};

Result<std::vector<CUfunction>> kernels_beside(const Driver& driver, const void* kernel) {
  cudaFunction_t function = nullptr;
  if (const cudaError_t status = cudaGetFuncBySymbol(&function, kernel); status != cudaSuccess) {
    (void)cudaGetLastError();
    return fail(ErrorKind::kDevice, "loading kernels: {}", describe(status));
  }
  CUmodule module = nullptr;
  LS_TRY_VOID(tried(driver.module_of(&module, function), "finding their module"));
  unsigned count = 0;
  LS_TRY_VOID(tried(driver.count_of(&count, module), "counting them"));
  std::vector<CUfunction> all(count);
  LS_TRY_VOID(tried(driver.enumerate(all.data(), count, module), "listing them"));
  return all;
}

template <typename Each>
Result<void> for_each_kernel(Each each) {
  const Driver driver;
  if (!driver.complete())
    return fail(ErrorKind::kDevice, "loading kernels: the driver is older than CUDA 12.4");
  for (const void* kernel : named_kernels()) {
    LS_TRY(const std::vector<CUfunction> all, kernels_beside(driver, kernel));
    for (const CUfunction function : all) LS_TRY_VOID(each(driver, function));
  }
  return {};
}

}  // namespace

bool load_at_start(const void* kernel) {
  named_kernels().push_back(kernel);
  return true;
}

Result<void> load_kernels() {
  return for_each_kernel([](const Driver& driver, CUfunction function) {
    return tried(driver.load(function), "loading one");
  });
}

Result<KernelCount> count_kernels() {
  KernelCount count;
  const auto counted = for_each_kernel([&](const Driver& driver, CUfunction function) {
    CUfunctionLoadingState state{};
    const CUresult status = driver.is_loaded(&state, function);
    ++count.all;
    if (state == CU_FUNCTION_LOADING_STATE_LOADED) ++count.loaded;
    return tried(status, "asking for one");
  });
  if (!counted) return tl::unexpected<Error>(counted.error());
  return count;
}

}  // namespace longshore::device::cuda
