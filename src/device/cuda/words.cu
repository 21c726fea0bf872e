#include "device/cuda/driver.h"
#include "device/cuda/words.h"

namespace longshore::device::cuda {
namespace {

using WordFunction = CUresult (*)(CUstream, CUdeviceptr, cuuint32_t, unsigned);

bool call(Context& context, WordFunction function, cudaStream_t stream, const int32_t* word,
          int32_t value, unsigned flags, const char* what) {
  // Mapped memory has one address for host and device.
  const CUresult status = function == nullptr
                              ? CUDA_ERROR_NOT_SUPPORTED
                              : function(stream, reinterpret_cast<CUdeviceptr>(word),
                                         static_cast<cuuint32_t>(value), flags);
  if (status == CUDA_SUCCESS) return true;
  // The driver's numbers are the runtime's.
  context.check(static_cast<cudaError_t>(status), what);
  return false;
}

}  // namespace

void wait_for_word(Context& context, cudaStream_t stream, const int32_t* word, int32_t value) {
  static const auto function = driver_function<WordFunction>("cuStreamWaitValue32");
  (void)call(context, function, stream, word, value, CU_STREAM_WAIT_VALUE_GEQ,
             "waiting for the host");
}

bool write_word(Context& context, cudaStream_t stream, int32_t* word, int32_t value) {
  static const auto function = driver_function<WordFunction>("cuStreamWriteValue32");
  return call(context, function, stream, word, value, CU_STREAM_WRITE_VALUE_DEFAULT,
              "telling the host");
}

}  // namespace longshore::device::cuda
