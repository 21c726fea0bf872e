// A device's backend behind host pointers, so that one op test judges every backend: each call
// copies what the operation reads and writes to the device, runs it there, and copies the outputs
// back. What lies between the rows of an output comes back too: an operation that writes there is
// found.
#pragma once

#include <memory>
#include <vector>

#include "device/buffer.h"
#include "kernels/backend.h"

namespace longshore::kernels {

// Device copies of one call's arrays.
class MirrorCall {
 public:
  explicit MirrorCall(Backend& device) : device_(device) {}

  template <typename T>
  [[nodiscard]] const T* in(const T* host, int64_t count) {
    return reinterpret_cast<const T*>(copy(host, count * static_cast<int64_t>(sizeof(T)), nullptr));
  }
  // Comes back when the call is done().
  template <typename T>
  [[nodiscard]] T* out(T* host, int64_t count) {
    return reinterpret_cast<T*>(copy(host, count * static_cast<int64_t>(sizeof(T)), host));
  }
  [[nodiscard]] ConstMatrixView in(ConstMatrixView host);
  [[nodiscard]] MatrixView out(MatrixView host);
  [[nodiscard]] WeightView in(WeightView host);
  [[nodiscard]] BatchView in(BatchView host);
  // The pages that the batch names.
  [[nodiscard]] LatentCacheView out(LatentCacheView host, const BatchView& host_batch);
  [[nodiscard]] IndexKeyCacheView out(IndexKeyCacheView host, const BatchView& host_batch);

  // Waits and brings the outputs back. A fault of the device fails the test.
  void done();

 private:
  struct Output {
    void* host;
    const std::byte* device;
    int64_t bytes;
  };
  std::byte* copy(const void* host, int64_t bytes, void* back);

  Backend& device_;
  std::vector<device::Buffer> buffers_;
  std::vector<Output> outputs_;
};

class MirrorBackend final : public Backend {
 public:
  explicit MirrorBackend(std::unique_ptr<Backend> device) : device_(std::move(device)) {}

  [[nodiscard]] std::string_view name() const override { return device_->name(); }
  [[nodiscard]] DType activation_dtype() const override { return device_->activation_dtype(); }
  [[nodiscard]] DType latent_dtype() const override { return device_->latent_dtype(); }
  [[nodiscard]] DType index_key_dtype() const override { return device_->index_key_dtype(); }

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
  void mask_routes(const MaskRoutesParams& params) override;
  void add(const AddParams& params) override;
  void draw(const DrawParams& params) override;

 private:
  std::unique_ptr<Backend> device_;
};

}  // namespace longshore::kernels
