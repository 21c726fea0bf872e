#include "tests/kernels/mirror.h"

namespace longshore::kernels {

void MirrorBackend::router(const RouterParams& params) {
  MirrorCall call(*device_);
  RouterParams p = params;
  p.logits = call.in(params.logits);
  p.bias = call.in(params.bias, params.logits.cols);
  p.ids = call.out(params.ids, params.logits.rows * params.routes());
  p.weights = call.out(params.weights, params.logits.rows * params.routes());
  device_->router(p);
  call.done();
}

void MirrorBackend::experts(const ExpertsParams& params) {
  MirrorCall call(*device_);
  ExpertsParams p = params;
  const int64_t routes = params.x.rows * params.top_k;
  std::vector<ExpertView> views(params.experts, params.experts + params.num_experts);
  for (ExpertView& view : views) {
    for (WeightView* w : {&view.gate, &view.up, &view.down}) *w = call.in(*w);
  }
  p.experts = call.in(views.data(), params.num_experts);
  p.x = call.in(params.x);
  p.ids = call.in(params.ids, routes);
  p.weights = call.in(params.weights, routes);
  p.y = call.out(params.y);
  device_->experts(p);
  call.done();
}

}  // namespace longshore::kernels
