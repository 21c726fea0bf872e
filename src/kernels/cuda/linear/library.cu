#include <cublasLt.h>

#include "kernels/cuda/common/elements.cuh"
#include "kernels/cuda/linear/library.h"

namespace longshore::kernels::cuda {
namespace {

constexpr int64_t kWorkspace = int64_t{32} << 20;

// One for the process and never destroyed: the CUDA part is never unloaded. Null: cuBLASLt does not
// start.
cublasLtHandle_t handle() {
  static cublasLtHandle_t const made = [] {
    cublasLtHandle_t created = nullptr;
    return cublasLtCreate(&created) == CUBLAS_STATUS_SUCCESS ? created : nullptr;
  }();
  return made;
}

// The library's column-major matrices are our rows.
class Layout {
 public:
  Layout(cudaDataType_t type, int64_t rows, int64_t cols, int64_t stride, int64_t heads,
         int64_t head_stride) {
    cublasLtMatrixLayoutInit(&layout_, type, static_cast<uint64_t>(rows),
                             static_cast<uint64_t>(cols), stride);
    const auto count = static_cast<int32_t>(heads);
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, count);
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, head_stride);
  }
  [[nodiscard]] cublasLtMatrixLayout_t get() { return &layout_; }

 private:
  template <typename T>
  void set(cublasLtMatrixLayoutAttribute_t attribute, const T& value) {
    cublasLtMatrixLayoutSetAttribute(&layout_, attribute, &value, sizeof(value));
  }
  cublasLtMatrixLayoutOpaque_t layout_;
};

// What every row's start is a multiple of, in bytes.
uint32_t alignment(const void* data, int64_t stride, int64_t head_stride, int64_t size) {
  const auto bits = static_cast<uint64_t>(reinterpret_cast<uintptr_t>(data)) |
                    static_cast<uint64_t>(stride * size) |
                    static_cast<uint64_t>(head_stride * size) | 256u;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

class Preference {
 public:
  Preference() { cublasLtMatmulPreferenceInit(&preference_); }
  template <typename T>
  void set(cublasLtMatmulPreferenceAttributes_t attribute, const T& value) {
    cublasLtMatmulPreferenceSetAttribute(&preference_, attribute, &value, sizeof(value));
  }
  [[nodiscard]] cublasLtMatmulPreference_t get() { return &preference_; }

 private:
  cublasLtMatmulPreferenceOpaque_t preference_;
};

}  // namespace

bool library_linear(Context& context, const HeadLinearParams& p, bool accumulate) {
  if (handle() == nullptr) return false;
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatmulDescInit(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
  const cublasOperation_t transposed = CUBLAS_OP_T;
  cublasLtMatmulDescSetAttribute(&operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                 sizeof(transposed));
  const int64_t out = p.w.out / p.heads;
  const bool wide = p.y.dtype == DType::kF32;
  Layout w(CUDA_R_16BF, p.w.in, out, p.w.in, p.heads, out * p.w.in);
  Layout x(CUDA_R_16BF, p.w.in, p.x.rows, p.x.stride, p.heads, p.x_head_stride);
  Layout y(wide ? CUDA_R_32F : CUDA_R_16BF, out, p.x.rows, p.y.stride, p.heads, p.y_head_stride);

  const ScratchScope scope(context);
  const int64_t workspace = std::min(kWorkspace, context.scratch_left());
  Preference preference;
  preference.set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace));
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                 alignment(p.w.data, p.w.in, out * p.w.in, 2));
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                 alignment(p.x.data, p.x.stride, p.x_head_stride, 2));
  const uint32_t y_alignment =
      alignment(p.y.data, p.y.stride, p.y_head_stride, dtype_size(p.y.dtype));
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y_alignment);
  preference.set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y_alignment);
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t searched = cublasLtMatmulAlgoGetHeuristic(
      handle(), &operation, w.get(), x.get(), y.get(), y.get(), preference.get(), 1, &best, &found);
  if (searched != CUBLAS_STATUS_SUCCESS || found == 0) return false;
  const float one = 1;
  const float before = accumulate ? 1 : 0;
  const cublasStatus_t status = cublasLtMatmul(
      handle(), &operation, &one, p.w.data, w.get(), p.x.data, x.get(), &before, p.y.data, y.get(),
      p.y.data, y.get(), &best.algo, context.scratch<std::byte>(workspace),
      static_cast<size_t>(workspace), context.stream());
  if (status != CUBLAS_STATUS_SUCCESS)
    context.check(cudaErrorUnknown, cublasLtGetStatusName(status));
  context.launched("linear");
  return true;
}

}  // namespace longshore::kernels::cuda
