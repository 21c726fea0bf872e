// What a Checkpoint is made of, shared by the code that opens one and the code that generates one.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "checkpoint/bulk.h"
#include "checkpoint/checkpoint.h"

namespace longshore {

struct Checkpoint::Impl {
  GlmConfig config;
  std::string where;
  std::vector<Mapping> mappings;
  std::vector<std::string> mapping_names;  // for messages
  std::vector<TensorInfo> tensors;         // by name, ascending
  std::unordered_map<std::string_view, size_t> index;
  int64_t total_bytes = 0;
  std::vector<std::string> unindexed;

  // Scales that lie at an odd address in their file, copied on first use.
  mutable std::mutex aligned_mutex;
  mutable std::map<const TensorInfo*, std::unique_ptr<float[]>> aligned;

  // Sorts the tensors and fills the index and the sum. Two tensors of one name are an error
  // (kModel).
  Result<void> finish();
  // A file's tensors now lie in `memory`, which holds its content.
  void move_tensors(size_t mapping, Mapping memory);
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  // The large matrices in the mappings, ranges being mappings, ascending.
  [[nodiscard]] std::vector<Matrix> matrices() const;
  // The scales' numbers at an address that suits them.
  [[nodiscard]] const float* scales_of(const TensorInfo& tensor) const;
};

}  // namespace longshore
