#include "tests/kernels/mirror.h"

namespace longshore::kernels {

void MirrorBackend::mask_routes(const MaskRoutesParams& params) {
  MirrorCall call(*device_);
  MaskRoutesParams p = params;
  p.ids = call.in(params.ids, params.count);
  p.keep = call.in(params.keep, params.num_experts);
  p.out = call.out(params.out, params.count);
  device_->mask_routes(p);
  call.done();
}

void MirrorBackend::add(const AddParams& params) {
  MirrorCall call(*device_);
  AddParams p = params;
  p.x = call.in(params.x);
  p.y = call.out(params.y);
  device_->add(p);
  call.done();
}

void MirrorBackend::draw(const DrawParams& params) {
  MirrorCall call(*device_);
  DrawParams p = params;
  p.logits = call.in(params.logits);
  if (!params.greedy) p.rules = call.in(params.rules, params.logits.rows);
  p.ids = call.out(params.ids, params.logits.rows);
  device_->draw(p);
  call.done();
}

}  // namespace longshore::kernels
