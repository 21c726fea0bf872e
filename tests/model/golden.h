// Golden outputs of transformers 5.17 (tests/data/goldens, provenance in tests/data/README.md) and
// the machinery to compare.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/threads.h"
#include "checkpoint/checkpoint.h"
#include "engine/score.h"
#include "kernels/backend.h"
#include "model/model.h"

namespace longshore {

// A safetensors file of goldens.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& path);
  [[nodiscard]] bool has(const std::string& name) const;
  [[nodiscard]] std::vector<float> floats(const std::string& name) const;
  [[nodiscard]] std::vector<int32_t> ints(const std::string& name) const;
  [[nodiscard]] std::vector<int64_t> shape(const std::string& name) const;

 private:
  struct Tensor {
    std::string name;
    DType dtype;
    std::vector<int64_t> shape;
    int64_t begin;
    int64_t end;
  };
  [[nodiscard]] const Tensor& find(const std::string& name) const;
  std::string bytes_;
  std::vector<Tensor> tensors_;
};

// A checkpoint with a model and its MTP layer on one backend.
struct TestModel {
  // backend: "reference" or a name for make_cpu_backend.
  TestModel(const std::string& dir, const std::string& backend, int64_t max_step_tokens = 512,
            int threads = 2);

  [[nodiscard]] engine::Scores score(std::span<const int32_t> ids, int64_t last, int64_t chunk,
                                     bool with_mtp, model::Observer* observer = nullptr);

  ThreadPool pool;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::Model> model;
  std::unique_ptr<model::Mtp> mtp;
  model::KvLayout layout;
};

// Norm of the difference over the norm of `expected`; infinite when anything is not finite.
[[nodiscard]] double relative_error(std::span<const float> actual, std::span<const float> expected);

[[nodiscard]] std::string data_path(const std::string& below_tests_data);
[[nodiscard]] std::string nano_path();

}  // namespace longshore
