// The experts of some layers as they lie in host memory, and their common shape.
//
// Ownership: the checkpoint owns the memory. Threading: const functions from any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "checkpoint/checkpoint.h"
#include "kernels/ops_moe.h"

namespace longshore::offload {

class HostExperts {
 public:
  // Binds the experts of layers [first_layer, first_layer + layers) of the checkpoint; all of them
  // must be MoE layers. kModel: a tensor is missing or malformed.
  static Result<HostExperts> bind(const Checkpoint& checkpoint, int64_t first_layer,
                                  int64_t layers);

  // The checkpoint's layer index -> from 0 in this store.
  [[nodiscard]] int64_t index_of(int64_t layer) const;
  [[nodiscard]] int64_t layers() const { return layers_; }
  [[nodiscard]] int64_t per_layer() const { return per_layer_; }
  [[nodiscard]] int64_t size() const { return static_cast<int64_t>(views_.size()); }
  [[nodiscard]] const std::vector<kernels::ExpertView>& views() const { return views_; }
  // [per_layer()] of the layer of that index.
  [[nodiscard]] const kernels::ExpertView* layer(int64_t index) const {
    return views_.data() + index * per_layer_;
  }

  // Without data, of the layer's first expert; whether dtypes or blocks differ within the layer.
  [[nodiscard]] kernels::ExpertView shape(int64_t index) const {
    return kernels::shape_of(layer(index)[0]);
  }
  [[nodiscard]] bool mixed(int64_t index) const { return mixed_[static_cast<size_t>(index)]; }
  // Weight and scale bytes of the first expert; 0 where there is none.
  [[nodiscard]] int64_t expert_bytes() const;

 private:
  int64_t first_layer_ = 0;
  int64_t layers_ = 0;
  int64_t per_layer_ = 0;
  std::vector<bool> mixed_;                 // [layers]
  std::vector<kernels::ExpertView> views_;  // [layers, per_layer]
};

}  // namespace longshore::offload
