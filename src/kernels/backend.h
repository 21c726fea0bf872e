// The operations that the forward pass is written in. One implementation per arithmetic and device:
//   reference  scalar fp32, the specification; fp32 caches
//   cpu        vectorised, multi-threaded; bf16 activations and latents, FP8 index keys, fp32 sums
//
// Threading: one thread calls; the backend uses its pool inside. Preconditions (shapes, dtypes) are
// checked and a breach ends the program: whatever comes from a file or a user has been validated
// before it gets here.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/ops_attention.h"
#include "kernels/ops_dense.h"
#include "kernels/ops_moe.h"

namespace longshore::kernels {

class Backend {
 public:
  virtual ~Backend() = default;

  [[nodiscard]] virtual std::string_view name()
      const = 0;  // "reference", "cpu-avx2", "cpu-avx512", ...
  [[nodiscard]] virtual DType activation_dtype() const = 0;
  [[nodiscard]] virtual DType latent_dtype() const = 0;
  [[nodiscard]] virtual DType index_key_dtype() const = 0;

  virtual void embed(const EmbedParams& params) = 0;
  virtual void gather_rows(const GatherRowsParams& params) = 0;
  virtual void rms_norm(const RmsNormParams& params) = 0;
  virtual void linear(const LinearParams& params) = 0;
  virtual void head_linear(const HeadLinearParams& params) = 0;
  virtual void rope(const RopeParams& params) = 0;
  virtual void silu_mul(const SiluMulParams& params) = 0;

  virtual void latent_store(const LatentStoreParams& params) = 0;
  virtual void index_key_store(const IndexKeyStoreParams& params) = 0;
  virtual void index_select(const IndexSelectParams& params) = 0;
  virtual void sparse_mla(const SparseMlaParams& params) = 0;

  virtual void router(const RouterParams& params) = 0;
  virtual void experts(const ExpertsParams& params) = 0;
};

// The pool outlives the backend.
[[nodiscard]] std::unique_ptr<Backend> make_reference_backend(ThreadPool& pool);

// isa: "auto" (the best this machine has) or one of cpu_isa_names(). Error kUsage: unknown, or this
// machine lacks it.
[[nodiscard]] Result<std::unique_ptr<Backend>> make_cpu_backend(ThreadPool& pool,
                                                                std::string_view isa);
// The instruction sets with kernels of their own, best first, comma-separated; this machine may
// lack some.
[[nodiscard]] std::string cpu_isa_names();

}  // namespace longshore::kernels
