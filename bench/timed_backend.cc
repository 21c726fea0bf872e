#include "bench/timed_backend.h"

#include <set>
#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/clock.h"

namespace longshore::bench {
namespace {

using namespace kernels;

class TimedBackend final : public Backend {
 public:
  TimedBackend(std::unique_ptr<Backend> inner, OperationTimes& times)
      : inner_(std::move(inner)), times_(times) {
    LS_CHECK(inner_->memory().host());
  }

  [[nodiscard]] std::string_view name() const override { return inner_->name(); }
  [[nodiscard]] DType activation_dtype() const override { return inner_->activation_dtype(); }
  [[nodiscard]] DType latent_dtype() const override { return inner_->latent_dtype(); }
  [[nodiscard]] DType index_key_dtype() const override { return inner_->index_key_dtype(); }

  void embed(const EmbedParams& p) override { timed("embed", &Backend::embed, p); }
  void gather_rows(const GatherRowsParams& p) override {
    timed("gather_rows", &Backend::gather_rows, p);
  }
  void rms_norm(const RmsNormParams& p) override { timed("rms_norm", &Backend::rms_norm, p); }
  void linear(const LinearParams& p) override {
    timed(product("linear", p.w), &Backend::linear, p, p.w.bytes_with_scales());
  }
  void head_linear(const HeadLinearParams& p) override {
    timed(product("head_linear", p.w), &Backend::head_linear, p, p.w.bytes_with_scales());
  }
  void rope(const RopeParams& p) override { timed("rope", &Backend::rope, p); }
  void silu_mul(const SiluMulParams& p) override { timed("silu_mul", &Backend::silu_mul, p); }

  void latent_store(const LatentStoreParams& p) override {
    timed("latent_store", &Backend::latent_store, p);
  }
  void index_key_store(const IndexKeyStoreParams& p) override {
    timed("index_key_store", &Backend::index_key_store, p);
  }
  void index_gather(const IndexGatherParams& p) override {
    timed("index_gather", &Backend::index_gather, p);
  }
  void index_select(const IndexSelectParams& p) override {
    timed("index_select", &Backend::index_select, p);
  }
  void sparse_mla(const SparseMlaParams& p) override {
    timed("sparse_mla", &Backend::sparse_mla, p);
  }

  void router(const RouterParams& p) override { timed("router", &Backend::router, p); }
  void experts(const ExpertsParams& p) override {
    const std::set<int32_t> used(p.ids, p.ids + p.x.rows * p.top_k);
    int64_t bytes = 0;
    for (const int32_t id : used) {
      if (id < 0) continue;
      const ExpertView& expert = p.experts[id];
      bytes += expert.gate.bytes_with_scales() + expert.up.bytes_with_scales() +
               expert.down.bytes_with_scales();
    }
    timed("experts", &Backend::experts, p, bytes);
  }
  void mask_routes(const MaskRoutesParams& p) override {
    timed("mask_routes", &Backend::mask_routes, p);
  }
  void add(const AddParams& p) override { timed("add", &Backend::add, p); }
  void draw(const DrawParams& p) override { timed("draw", &Backend::draw, p); }

 private:
  static std::string product(const char* name, const WeightView& w) {
    return fmt::format("{} {} x {} {}", name, w.out, w.in, dtype_name(w.dtype));
  }

  template <typename Params>
  void timed(const std::string& name, void (Backend::*operation)(const Params&), const Params& p,
             int64_t bytes = 0) {
    const Stopwatch watch;
    (inner_.get()->*operation)(p);
    OperationTime& time = times_[name];
    time.seconds += watch.seconds();
    time.bytes += static_cast<double>(bytes);
    ++time.calls;
  }

  std::unique_ptr<Backend> inner_;
  OperationTimes& times_;
};

}  // namespace

std::unique_ptr<kernels::Backend> make_timed_backend(std::unique_ptr<kernels::Backend> inner,
                                                     OperationTimes& times) {
  return std::make_unique<TimedBackend>(std::move(inner), times);
}

}  // namespace longshore::bench
