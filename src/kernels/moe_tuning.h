// What the measuring of tiles (bench/moe_tuning.h) asks of a backend whose experts are compiled in
// several forms. Such a backend is also a MoeTuning, as one with graphs is a device::Graphs.
//
// Threading: the thread that calls the backend.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace longshore::kernels {

class MoeTuning {
 public:
  virtual ~MoeTuning() = default;

  // "NVIDIA H200": what a file's name calls the device.
  [[nodiscard]] virtual std::string device_name() const = 0;
  // Those of kMoeVariants that can compute these experts on this device, ascending.
  [[nodiscard]] virtual std::vector<size_t> expert_variants(const ExpertsParams& params) = 0;
  // Backend::experts() by one of them. w8a8: where that one can, activations are rounded to FP8.
  virtual void experts_by(size_t variant, const ExpertsParams& params, bool w8a8) = 0;
};

}  // namespace longshore::kernels
