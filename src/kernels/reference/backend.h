// The reference backend: scalar fp32, the specification that every other backend is held to.
//
// It accepts every dtype combination of inputs, caches and outputs. An output element depends on
// its own token alone, not on the batch around it and not on the number of threads, bit for bit.
#pragma once

#include "kernels/backend.h"

namespace longshore::kernels::reference {

class ReferenceBackend final : public Backend {
 public:
  explicit ReferenceBackend(ThreadPool& pool) : pool_(pool) {}

  [[nodiscard]] std::string_view name() const override { return "reference"; }
  [[nodiscard]] DType activation_dtype() const override { return DType::kF32; }
  [[nodiscard]] DType latent_dtype() const override { return DType::kF32; }
  [[nodiscard]] DType index_key_dtype() const override { return DType::kF32; }

  void embed(const EmbedParams& params) override;
  void gather_rows(const GatherRowsParams& params) override;
  void rms_norm(const RmsNormParams& params) override;
  void linear(const LinearParams& params) override;
  void head_linear(const HeadLinearParams& params) override;
  void rope(const RopeParams& params) override;
  void silu_mul(const SiluMulParams& params) override;

  void latent_store(const LatentStoreParams& params) override;
  void index_key_store(const IndexKeyStoreParams& params) override;
  void index_gather(const IndexGatherParams& params) override;
  void index_select(const IndexSelectParams& params) override;
  void sparse_mla(const SparseMlaParams& params) override;

  void router(const RouterParams& params) override;
  void experts(const ExpertsParams& params) override;

 private:
  ThreadPool& pool_;
};

}  // namespace longshore::kernels::reference
