// The operations that the forward pass is written in. One implementation per arithmetic and device:
//   reference  scalar fp32, the specification; fp32 caches
//   cpu        vectorised, multi-threaded; bf16 activations and latents, FP8 index keys, fp32 sums
//   cuda       the cpu's arithmetic on an NVIDIA GPU
//
// Every pointer of a params struct points into memory(), tables and per-step arrays included; sizes
// are host values. A device backend queues its work and returns: results are there after
// synchronize().
//
// Threading: one thread calls; the backend uses its pool inside. Preconditions (shapes, dtypes) are
// checked and a breach ends the program: whatever comes from a file or a user has been validated
// before it gets here.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/threads.h"
#include "device/memory.h"
#include "device/transfers.h"
#include "kernels/ops_attention.h"
#include "kernels/ops_dense.h"
#include "kernels/ops_moe.h"
#include "kernels/ops_sample.h"

namespace longshore::kernels {

class Backend {
 public:
  virtual ~Backend() = default;

  [[nodiscard]] virtual std::string_view name()
      const = 0;  // "reference", "cpu-avx2", "cpu-avx512", ...
  [[nodiscard]] virtual DType activation_dtype() const = 0;
  [[nodiscard]] virtual DType latent_dtype() const = 0;
  [[nodiscard]] virtual DType index_key_dtype() const = 0;

  [[nodiscard]] virtual device::Memory& memory() { return device::host_memory(); }
  // to[i] = host[i], in order with the queued work; host may be reused at once. How per-step
  // metadata reaches a device: never through the copy engine, any count.
  virtual void copy_ints(const int32_t* host, int64_t count, int32_t* to) {
    std::copy_n(host, count, to);
  }
  // bytes from memory() -> to in transfers()->mapped(), queued: it is there once a later mark has
  // passed.
  virtual void copy_out(const std::byte* from, int64_t bytes, std::byte* to) {
    std::copy_n(from, bytes, to);
  }
  // What is queued from now on waits until *flag, in transfers()->mapped(), has reached value:
  // another thread than the one that queues will set it, whatever happens. Values grow by less than
  // 2^31 from one to the next.
  virtual void wait_for_host(const int32_t* flag, int32_t value);
  // The wire into the device's memory; nullptr where memory() is the host's.
  [[nodiscard]] virtual device::Transfers* transfers() { return nullptr; }
  // Waits for the queued work. kDevice: some of it failed, and whatever it wrote is worthless.
  [[nodiscard]] virtual Result<void> synchronize() { return {}; }

  virtual void embed(const EmbedParams& params) = 0;
  virtual void gather_rows(const GatherRowsParams& params) = 0;
  virtual void rms_norm(const RmsNormParams& params) = 0;
  virtual void linear(const LinearParams& params) = 0;
  virtual void head_linear(const HeadLinearParams& params) = 0;
  virtual void rope(const RopeParams& params) = 0;
  virtual void silu_mul(const SiluMulParams& params) = 0;

  virtual void latent_store(const LatentStoreParams& params) = 0;
  virtual void index_key_store(const IndexKeyStoreParams& params) = 0;
  virtual void index_gather(const IndexGatherParams& params) = 0;
  virtual void index_select(const IndexSelectParams& params) = 0;
  virtual void sparse_mla(const SparseMlaParams& params) = 0;

  virtual void router(const RouterParams& params) = 0;
  virtual void experts(const ExpertsParams& params) = 0;
  virtual void mask_routes(const MaskRoutesParams& params);  // here: for host memory
  virtual void add(const AddParams& params);
  virtual void draw(const DrawParams& params);  // here: for host memory
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

struct CudaOptions {
  int device = 0;                            // CUDA's ordinal
  int64_t scratch_bytes = int64_t{1} << 30;  // for intermediate results within one operation
  // Experts with many tokens each round their activations to FP8 (Hopper; faster, less exact).
  bool moe_w8a8 = false;
  std::string moe_config_folder{};  // of tuned tiles (kernels/moe_config.h); empty: none
};

// Loads liblongshore_cuda.so, which lies beside the program, and opens the device. Error kDevice:
// this build has no CUDA part, or there is no driver, no such device, or one that the library has
// no kernels for.
[[nodiscard]] Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options);

}  // namespace longshore::kernels
