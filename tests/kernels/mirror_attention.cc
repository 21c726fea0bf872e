#include <numeric>

#include "tests/kernels/mirror.h"

namespace longshore::kernels {

void MirrorBackend::latent_store(const LatentStoreParams& host) {
  MirrorCall call(*device_);
  LatentStoreParams p = host;
  p.kv = call.in(host.kv);
  p.norm_weight = call.in(host.norm_weight, host.kv_lora);
  p.inv_freq = call.in(host.inv_freq, host.rope_dim / 2);
  p.batch = call.in(host.batch);
  p.cache = call.out(host.cache, host.batch);
  device_->latent_store(p);
  call.done();
}

void MirrorBackend::index_key_store(const IndexKeyStoreParams& host) {
  MirrorCall call(*device_);
  IndexKeyStoreParams p = host;
  p.k = call.in(host.k);
  p.norm_weight = call.in(host.norm_weight, host.k.cols);
  p.norm_bias = call.in(host.norm_bias, host.k.cols);
  p.inv_freq = call.in(host.inv_freq, host.rope_dim / 2);
  p.batch = call.in(host.batch);
  p.cache = call.out(host.cache, host.batch);
  device_->index_key_store(p);
  call.done();
}

void MirrorBackend::index_gather(const IndexGatherParams& host) {
  MirrorCall call(*device_);
  IndexGatherParams p = host;
  const BatchView pages{.sequences = host.sequences,
                        .page_table = host.page_table,
                        .page_table_width = host.page_table_width};
  const int64_t total = std::accumulate(host.seq_lens, host.seq_lens + host.sequences, int64_t{0});
  p.cache = call.out(host.cache, pages);
  p.page_table = call.in(host.page_table, host.sequences * host.page_table_width);
  p.seq_lens = call.in(host.seq_lens, host.sequences);
  p.keys = call.out(host.keys, total * host.cache.head_dim);
  p.scales = call.out(host.scales, total);
  device_->index_gather(p);
  call.done();
}

void MirrorBackend::index_select(const IndexSelectParams& host) {
  MirrorCall call(*device_);
  IndexSelectParams p = host;
  p.q = call.in(host.q);
  p.head_weights = call.in(host.head_weights);
  p.inv_freq = call.in(host.inv_freq, host.rope_dim / 2);
  p.batch = call.in(host.batch);
  p.cache = call.out(host.cache, host.batch);
  p.selected = call.out(host.selected, host.q.rows * host.top_k);
  p.counts = call.out(host.counts, host.q.rows);
  p.scores = call.out(host.scores);
  device_->index_select(p);
  call.done();
}

void MirrorBackend::sparse_mla(const SparseMlaParams& host) {
  MirrorCall call(*device_);
  SparseMlaParams p = host;
  p.q_c = call.in(host.q_c);
  p.q = call.in(host.q);
  p.batch = call.in(host.batch);
  p.cache = call.out(host.cache, host.batch);
  p.selected = call.in(host.selected, host.o.rows * host.selected_stride);
  p.counts = call.in(host.counts, host.o.rows);
  p.o = call.out(host.o);
  device_->sparse_mla(p);
  call.done();
}

}  // namespace longshore::kernels
