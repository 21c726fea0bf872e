#include "model/kv_layout.h"

#include <algorithm>

namespace longshore::model {

KvLayout KvLayout::of(const GlmConfig& config, kernels::Backend& backend, bool with_mtp,
                      std::optional<DType> latents) {
  KvLayout layout;
  layout.memory = &backend.memory();
  layout.latent_dtype = latents.value_or(backend.latent_dtype());
  layout.kv_lora = config.kv_lora_rank;
  layout.rope_dim = config.qk_rope_head_dim;
  layout.index_dtype = backend.index_key_dtype();
  layout.index_head_dim = config.index_head_dim;
  const int64_t layers = config.num_layers + (with_mtp ? config.num_mtp_layers : 0);
  for (int64_t layer = 0; layer < layers; ++layer)
    layout.has_index.push_back(config.has_indexer(layer));
  return layout;
}

int64_t KvLayout::latent_page_bytes() const {
  return kernels::kPageTokens *
         kernels::LatentCacheView::token_bytes(latent_dtype, kv_lora, rope_dim);
}

int64_t KvLayout::index_page_bytes() const {
  return kernels::IndexKeyCacheView::page_bytes(index_dtype, index_head_dim);
}

int64_t KvLayout::page_bytes() const {
  const int64_t indexed = std::count(has_index.begin(), has_index.end(), true);
  return layers() * latent_page_bytes() + indexed * index_page_bytes();
}

}  // namespace longshore::model
