// What a token leaves in the caches. The model states the layout, the engine allocates it, kernels
// see the views.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "checkpoint/config.h"
#include "kernels/backend.h"
#include "kernels/paged.h"

namespace longshore::model {

// One layer's caches as the forward pass gets them.
struct LayerCache {
  kernels::LatentCacheView latent;
  kernels::IndexKeyCacheView index;  // data == nullptr where the layer has no indexer
};

// Pages of 64 tokens; latents and index keys of a page are allocated and freed together. Layer
// num_layers is the MTP layer's.
struct KvLayout {
  device::Memory* memory = &device::host_memory();  // where the pages lie: the backend's
  DType latent_dtype = DType::kF32;
  int64_t kv_lora = 0;
  int64_t rope_dim = 0;
  DType index_dtype = DType::kF32;
  int64_t index_head_dim = 0;
  std::vector<bool> has_index;  // [layers, MTP included if loaded]

  // latents: what they are kept in; nothing: the backend's own.
  static KvLayout of(const GlmConfig& config, kernels::Backend& backend, bool with_mtp,
                     std::optional<DType> latents = std::nullopt);

  [[nodiscard]] int64_t layers() const { return static_cast<int64_t>(has_index.size()); }
  [[nodiscard]] int64_t latent_page_bytes() const;  // of one layer
  [[nodiscard]] int64_t index_page_bytes() const;   // of one layer that has an indexer
  [[nodiscard]] int64_t page_bytes() const;         // of all layers
};

}  // namespace longshore::model
