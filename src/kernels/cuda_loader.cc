// The CUDA part is a shared object of its own, so that the program runs where no driver is.
#include <filesystem>

#include <dlfcn.h>

#include "kernels/backend.h"
#include "kernels/cuda/entry.h"

namespace longshore::kernels {
namespace {

constexpr const char* kLibrary = "liblongshore_cuda.so";

// dlopen searches neither the program's folder nor, for a test, the build's: both are the same.
std::string library_path() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? kLibrary : (program.parent_path() / kLibrary).string();
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options) {
  const std::string path = library_path();
  // Never closed: its backends' code must outlive them.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return fail(ErrorKind::kDevice,
                "no CUDA backend: {} (build with a CUDA 13 toolkit and run where a driver is, or "
                "use --device cpu)",
                dlerror());
  }
  const auto create = reinterpret_cast<cuda::CreateFunction>(dlsym(library, cuda::kCreateSymbol));
  if (create == nullptr) {
    return fail(ErrorKind::kDevice, "{} belongs to another version of longshore: {}", path,
                dlerror());
  }
  Error error{ErrorKind::kDevice, ""};
  std::unique_ptr<Backend> backend(create(options, error));
  if (backend == nullptr) return tl::unexpected<Error>(std::move(error));
  return backend;
}

}  // namespace longshore::kernels
