// The CUDA backend: every operation is a function of ops.h.
#include <array>
#include <cstdlib>
#include <string_view>

#include <fmt/format.h>

#include "device/buffer.h"
#include "device/cuda/context.h"
#include "device/cuda/graphs.h"
#include "device/cuda/transfers.h"
#include "device/stamps.h"
#include "kernels/cuda/entry.h"
#include "kernels/cuda/exchange/exchange.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/stamp/stamp.h"
#include "kernels/moe_tuning.h"

namespace longshore::kernels::cuda {
namespace {

class CudaBackend final : public Backend,
                          public device::Graphs,
                          public device::Stamps,
                          public MoeTuning,
                          public RouteExchange {
 public:
  CudaBackend(std::unique_ptr<Context> context,
              std::unique_ptr<device::cuda::CudaTransfers> transfers, device::Buffer exchange,
              const CudaOptions& options)
      : context_(std::move(context)),
        transfers_(std::move(transfers)),
        exchange_(std::move(exchange)),
        graphs_(*context_),
        moe_configs_(options.moe_config_folder, context_->name(),
                     [](const std::string& line) { fmt::print(stderr, "{}\n", line); }),
        moe_w8a8_(options.moe_w8a8) {}

  [[nodiscard]] std::string_view name() const override { return "cuda"; }
  [[nodiscard]] DType activation_dtype() const override { return DType::kBF16; }
  [[nodiscard]] DType latent_dtype() const override { return DType::kBF16; }
  [[nodiscard]] DType index_key_dtype() const override { return DType::kF8E4M3; }

  [[nodiscard]] device::Memory& memory() override { return context_->memory(); }
  void copy_ints(const int32_t* host, int64_t count, int32_t* to) override {
    cuda::copy_ints(*context_, host, count, to);
  }
  void copy_out(const std::byte* from, int64_t bytes, std::byte* to) override {
    cuda::copy_out(*context_, from, bytes, to);
  }
  void wait_for_host(const int32_t* flag, int32_t value) override {
    cuda::wait_for_host(*context_, flag, value);
  }
  [[nodiscard]] device::Transfers* transfers() override { return transfers_.get(); }
  [[nodiscard]] Result<void> synchronize() override { return context_->synchronize(); }

  void begin_capture() override { graphs_.begin_capture(); }
  [[nodiscard]] Result<Id> end_capture() override { return graphs_.end_capture(); }
  void launch(Id id) override { graphs_.launch(id); }
  void drop(Id id) override { graphs_.drop(id); }
  void stamp(uint64_t* to) override { cuda::stamp(*context_, to); }

  // Both are read by the driver when it starts.
  bool concurrent() const override {
    const char* blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
    const char* queues = std::getenv("CUDA_DEVICE_MAX_CONNECTIONS");
    return (blocking == nullptr || std::string_view(blocking) == "0") &&
           (queues == nullptr || std::string_view(queues) != "1");
  }
  void publish_routes(const PublishRoutesParams& params) override {
    cuda::publish_routes(*context_, params, reinterpret_cast<unsigned*>(exchange_.data()));
  }
  void take_routes(const TakeRoutesParams& params) override {
    cuda::take_routes(*context_, params);
  }
  void add_when(const AddParams& params, const int32_t* word) override {
    cuda::add_when(*context_, params, word, reinterpret_cast<int32_t*>(exchange_.data()) + 1);
  }
  void signal_copied(int32_t* word) override { transfers_->signal(word); }

  void embed(const EmbedParams& params) override { cuda::embed(*context_, params); }
  void gather_rows(const GatherRowsParams& params) override {
    cuda::gather_rows(*context_, params);
  }
  void rms_norm(const RmsNormParams& params) override { cuda::rms_norm(*context_, params); }
  void linear(const LinearParams& params) override { cuda::linear(*context_, params); }
  void head_linear(const HeadLinearParams& params) override {
    cuda::head_linear(*context_, params);
  }
  void rope(const RopeParams& params) override { cuda::rope(*context_, params); }
  void silu_mul(const SiluMulParams& params) override { cuda::silu_mul(*context_, params); }

  void latent_store(const LatentStoreParams& params) override {
    cuda::latent_store(*context_, params);
  }
  void index_key_store(const IndexKeyStoreParams& params) override {
    cuda::index_key_store(*context_, params);
  }
  void index_gather(const IndexGatherParams& params) override {
    cuda::index_gather(*context_, params);
  }
  void index_select(const IndexSelectParams& params) override {
    cuda::index_select(*context_, params);
  }
  void sparse_mla(const SparseMlaParams& params) override { cuda::sparse_mla(*context_, params); }

  void router(const RouterParams& params) override { cuda::router(*context_, params); }
  void experts(const ExpertsParams& params) override {
    cuda::experts(*context_, params, moe_configs_, moe_w8a8_);
  }
  void mask_routes(const MaskRoutesParams& params) override {
    cuda::mask_routes(*context_, params);
  }
  void add(const AddParams& params) override { cuda::add(*context_, params); }
  void draw(const DrawParams& params) override { cuda::draw(*context_, params); }

  [[nodiscard]] std::string device_name() const override { return context_->name(); }
  [[nodiscard]] std::vector<size_t> expert_variants(const ExpertsParams& params) override {
    return cuda::expert_variants(*context_, params);
  }
  void experts_by(size_t variant, const ExpertsParams& params, bool w8a8) override {
    cuda::experts_by(*context_, variant, params, w8a8);
  }

 private:
  std::unique_ptr<Context> context_;
  std::unique_ptr<device::cuda::CudaTransfers> transfers_;  // after the context: it goes first
  device::Buffer exchange_;  // likewise; [2] int32: publish_routes' counter, add_when's word
  device::cuda::CudaGraphs graphs_;  // likewise
  MoeConfigs moe_configs_;
  bool moe_w8a8_;
};

}  // namespace
}  // namespace longshore::kernels::cuda

extern "C" longshore::kernels::Backend* longshore_cuda_create_3(
    const longshore::kernels::CudaOptions& options, longshore::Error& error) {
  using longshore::kernels::cuda::CudaBackend;
  auto context = longshore::device::cuda::Context::create(options.device, options.scratch_bytes);
  if (!context) {
    error = std::move(context).error();
    return nullptr;
  }
  auto transfers = longshore::device::cuda::CudaTransfers::create(**context);
  if (!transfers) {
    error = std::move(transfers).error();
    return nullptr;
  }
  constexpr std::array<int32_t, 2> kZeros{};
  longshore::device::Memory& memory = (*context)->memory();
  auto exchange = longshore::device::Buffer::allocate(memory, sizeof kZeros, "a counter");
  auto zeroed = exchange ? memory.upload(exchange->data(), kZeros.data(), sizeof kZeros)
                         : longshore::Result<void>(tl::unexpected(exchange.error()));
  if (!zeroed) {
    error = std::move(zeroed).error();
    return nullptr;
  }
  return new CudaBackend(std::move(*context), std::move(*transfers), std::move(*exchange), options);
}
