#include "bench/marked_backend.h"

#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "kernels/route_exchange.h"

namespace longshore::bench {
namespace {

using namespace kernels;

using PartOf = std::unordered_map<const void*, Part>;  // by the address of a weight

void note(PartOf& parts, Part part, const model::FfnWeights& ffn) {
  for (const WeightView* w : {&ffn.gate, &ffn.up, &ffn.down}) parts[w->data] = part;
}

void note(PartOf& parts, const model::LayerWeights& layer) {
  const model::AttentionWeights& a = layer.attention;
  for (const WeightView* w : {&a.q_a, &a.q_b, &a.kv_a, &a.uk_t, &a.uv, &a.o})
    parts[w->data] = Part::kProjections;
  for (const float* norm : {layer.input_norm, a.q_a_norm}) parts[norm] = Part::kProjections;
  if (a.indexer) {
    for (const WeightView* w : {&a.indexer->wq_b, &a.indexer->wk, &a.indexer->weights_proj})
      parts[w->data] = Part::kIndex;
  }
  parts[layer.ffn_norm] = layer.dense ? Part::kDense : Part::kRouter;
  if (layer.dense) note(parts, Part::kDense, *layer.dense);
  if (!layer.moe) return;
  parts[layer.moe->router.data] = Part::kRouter;
  if (layer.moe->shared) note(parts, Part::kShared, *layer.moe->shared);
}

class MarkedBackend final : public Backend, public device::Graphs, public RouteExchange {
 public:
  MarkedBackend(std::unique_ptr<Backend> inner, device::Graphs& graphs, RouteExchange& exchange,
                StepMarks marks)
      : inner_(std::move(inner)), graphs_(graphs), exchange_(exchange), marks_(std::move(marks)) {}

  [[nodiscard]] StepMarks& marks() { return marks_; }
  void name_parts(const model::ModelWeights& weights) {
    parts_.clear();
    for (const model::LayerWeights& layer : weights.layers) note(parts_, layer);
    parts_[weights.norm] = Part::kHead;
    parts_[weights.lm_head.data] = Part::kHead;
  }

  [[nodiscard]] std::string_view name() const override { return inner_->name(); }
  [[nodiscard]] DType activation_dtype() const override { return inner_->activation_dtype(); }
  [[nodiscard]] DType latent_dtype() const override { return inner_->latent_dtype(); }
  [[nodiscard]] DType index_key_dtype() const override { return inner_->index_key_dtype(); }
  [[nodiscard]] device::Memory& memory() override { return inner_->memory(); }
  [[nodiscard]] device::Transfers* transfers() override { return inner_->transfers(); }
  [[nodiscard]] Result<void> synchronize() override {
    marks_.close();
    return inner_->synchronize();
  }

  void copy_ints(const int32_t* host, int64_t count, int32_t* to) override {
    marks_.next(Part::kInput);
    inner_->copy_ints(host, count, to);
  }
  void copy_out(const std::byte* from, int64_t bytes, std::byte* to) override {
    marks_.next(Part::kHandshake, /*waits=*/true);
    inner_->copy_out(from, bytes, to);
  }
  void wait_for_host(const int32_t* flag, int32_t value) override {
    marks_.next(Part::kWireWait, /*waits=*/true);
    inner_->wait_for_host(flag, value);
    fetched_ = true;
  }

  void begin_capture() override {
    marks_.begin_capture();
    graphs_.begin_capture();
  }
  [[nodiscard]] Result<Id> end_capture() override {
    marks_.next(Part::kRest, /*waits=*/true);
    auto id = graphs_.end_capture();
    marks_.end_capture(id ? std::optional(*id) : std::nullopt);
    return id;
  }
  void launch(Id id) override {
    marks_.launch(id);
    graphs_.launch(id);
  }
  void drop(Id id) override {
    marks_.drop(id);
    graphs_.drop(id);
  }

  [[nodiscard]] bool concurrent() const override { return exchange_.concurrent(); }
  void publish_routes(const PublishRoutesParams& p) override {
    marks_.next(Part::kHandshake, /*waits=*/true);
    exchange_.publish_routes(p);
  }
  void take_routes(const TakeRoutesParams& p) override {
    marks_.next(Part::kHandshake, /*waits=*/true);
    exchange_.take_routes(p);
    fetched_ = false;
  }
  void add_when(const AddParams& p, const int32_t* word) override {
    if (marks_.marking()) {
      // A wait of its own, so that it is seen apart from the sum behind it. wait_for_host() ends
      // at its value and above: the least of Sum ends it whatever the host says.
      static_assert(kNothing < kThere);
      marks_.next(Part::kCpuWait, /*waits=*/true);
      inner_->wait_for_host(word, RouteExchange::kNothing);
      marks_.next(Part::kCombine);
    }
    exchange_.add_when(p, word);
  }
  void signal_copied(int32_t* word) override { exchange_.signal_copied(word); }

  void embed(const EmbedParams& p) override { run(Part::kInput, &Backend::embed, p); }
  void gather_rows(const GatherRowsParams& p) override {
    run(Part::kHead, &Backend::gather_rows, p);
  }
  void rms_norm(const RmsNormParams& p) override { run(part_of(p.weight), &Backend::rms_norm, p); }
  void linear(const LinearParams& p) override { run(part_of(p.w.data), &Backend::linear, p); }
  void head_linear(const HeadLinearParams& p) override {
    run(part_of(p.w.data), &Backend::head_linear, p);
  }
  void rope(const RopeParams& p) override { run(Part::kProjections, &Backend::rope, p); }
  // Between products of one feed-forward.
  void silu_mul(const SiluMulParams& p) override { run(last_, &Backend::silu_mul, p); }
  void latent_store(const LatentStoreParams& p) override {
    run(Part::kProjections, &Backend::latent_store, p);
  }
  void index_key_store(const IndexKeyStoreParams& p) override {
    run(Part::kIndex, &Backend::index_key_store, p);
  }
  void index_gather(const IndexGatherParams& p) override {
    run(Part::kIndex, &Backend::index_gather, p);
  }
  void index_select(const IndexSelectParams& p) override {
    run(Part::kIndex, &Backend::index_select, p);
  }
  void sparse_mla(const SparseMlaParams& p) override {
    run(Part::kSparseMla, &Backend::sparse_mla, p);
  }
  void router(const RouterParams& p) override { run(Part::kRouter, &Backend::router, p); }
  void experts(const ExpertsParams& p) override {
    run(fetched_ ? Part::kFetched : Part::kExperts, &Backend::experts, p);
  }
  void mask_routes(const MaskRoutesParams& p) override {
    run(Part::kExperts, &Backend::mask_routes, p);
  }
  void add(const AddParams& p) override { run(Part::kCombine, &Backend::add, p); }
  void draw(const DrawParams& p) override { run(Part::kHead, &Backend::draw, p); }

 private:
  [[nodiscard]] Part part_of(const void* weight) const {
    if (!marks_.marking()) return Part::kRest;
    const auto found = parts_.find(weight);
    return found == parts_.end() ? Part::kRest : found->second;
  }

  template <typename Params>
  void run(Part part, void (Backend::*operation)(const Params&), const Params& p) {
    last_ = part;
    marks_.next(part);
    (inner_.get()->*operation)(p);
  }

  std::unique_ptr<Backend> inner_;
  device::Graphs& graphs_;   // inner_
  RouteExchange& exchange_;  // likewise
  StepMarks marks_;          // its memory is inner_'s
  PartOf parts_;
  Part last_ = Part::kRest;
  bool fetched_ = false;  // the layer's experts have come
};

}  // namespace

Result<std::unique_ptr<kernels::Backend>> make_marked_backend(
    std::unique_ptr<kernels::Backend> inner) {
  auto* graphs = dynamic_cast<device::Graphs*>(inner.get());
  RouteExchange* exchange = RouteExchange::of(*inner);
  if (graphs == nullptr || exchange == nullptr)
    return fail(ErrorKind::kDevice, "{} captures no steps whose parts could be timed",
                inner->name());
  LS_TRY(StepMarks marks, StepMarks::create(*inner));
  return std::make_unique<MarkedBackend>(std::move(inner), *graphs, *exchange, std::move(marks));
}

StepMarks* marks_of(kernels::Backend& backend) {
  auto* marked = dynamic_cast<MarkedBackend*>(&backend);
  return marked == nullptr ? nullptr : &marked->marks();
}

void name_parts(kernels::Backend& marked, const model::ModelWeights& weights) {
  auto* backend = dynamic_cast<MarkedBackend*>(&marked);
  LS_CHECK(backend != nullptr);
  backend->name_parts(weights);
}

}  // namespace longshore::bench
