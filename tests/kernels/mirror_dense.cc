#include "tests/kernels/mirror.h"

namespace longshore::kernels {

void MirrorBackend::embed(const EmbedParams& params) {
  MirrorCall call(*device_);
  EmbedParams p = params;
  p.ids = call.in(params.ids, params.y.rows);
  p.table = call.in(params.table);
  p.y = call.out(params.y);
  device_->embed(p);
  call.done();
}

void MirrorBackend::gather_rows(const GatherRowsParams& params) {
  MirrorCall call(*device_);
  GatherRowsParams p = params;
  p.x = call.in(params.x);
  p.rows = call.in(params.rows, params.y.rows);
  p.y = call.out(params.y);
  device_->gather_rows(p);
  call.done();
}

void MirrorBackend::rms_norm(const RmsNormParams& params) {
  MirrorCall call(*device_);
  RmsNormParams p = params;
  p.x = call.in(params.x);
  p.weight = call.in(params.weight, params.x.cols);
  p.y = call.out(params.y);
  device_->rms_norm(p);
  call.done();
}

void MirrorBackend::linear(const LinearParams& params) {
  MirrorCall call(*device_);
  LinearParams p = params;
  p.x = call.in(params.x);
  p.w = call.in(params.w);
  p.y = call.out(params.y);
  device_->linear(p);
  call.done();
}

void MirrorBackend::head_linear(const HeadLinearParams& params) {
  MirrorCall call(*device_);
  HeadLinearParams p = params;
  p.x = call.in(params.x);
  p.w = call.in(params.w);
  p.y = call.out(params.y);
  device_->head_linear(p);
  call.done();
}

void MirrorBackend::rope(const RopeParams& params) {
  MirrorCall call(*device_);
  RopeParams p = params;
  p.positions = call.in(params.positions, params.x.rows);
  p.inv_freq = call.in(params.inv_freq, params.rope_dim / 2);
  p.y = call.out(params.y);
  p.x = params.x.data == params.y.data ? ConstMatrixView(p.y) : call.in(params.x);
  device_->rope(p);
  call.done();
}

void MirrorBackend::silu_mul(const SiluMulParams& params) {
  MirrorCall call(*device_);
  SiluMulParams p = params;
  p.gate = call.in(params.gate);
  p.up = call.in(params.up);
  p.y = call.out(params.y);
  device_->silu_mul(p);
  call.done();
}

}  // namespace longshore::kernels
