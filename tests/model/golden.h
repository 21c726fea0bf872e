// Golden outputs of transformers 5.17 (tests/data/goldens, provenance in tests/data/README.md) and
// the machinery to compare.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "checkpoint/checkpoint.h"
#include "engine/score.h"
#include "kernels/backend.h"
#include "model/model.h"
#include "tests/model/fake_device.h"

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

// "reference", "cuda" or a name for make_cpu_backend; "fake:" before a host backend's name puts it
// on a device without hardware.
[[nodiscard]] Result<std::unique_ptr<kernels::Backend>> make_test_backend(ThreadPool& pool,
                                                                          const std::string& name);

// A checkpoint with a model and its MTP layer on one backend.
struct TestModel {
  // backend: as make_test_backend.
  // offload.cpu is the model's own: a host backend of the same arithmetic, where with_cpu.
  TestModel(const std::string& dir, const std::string& backend, int64_t max_step_tokens = 512,
            int threads = 2, int64_t max_sequences = 64, offload::StoreOptions offload = {},
            bool with_cpu = false, std::optional<DType> latents = std::nullopt);

  [[nodiscard]] engine::Scores score(std::span<const int32_t> ids, int64_t last, int64_t chunk,
                                     bool with_mtp, model::Observer* observer = nullptr);

  ThreadPool pool;
  ThreadPool cpu_pool;  // of cpu, which computes beside a fake device
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<kernels::Backend> cpu;  // with_cpu
  FakeDevice* fake = nullptr;             // the backend, if it is one
  std::unique_ptr<model::Model> model;
  std::unique_ptr<model::Mtp> mtp;
  model::KvLayout layout;
};

// Norm of the difference over the norm of `expected`; infinite when anything is not finite.
[[nodiscard]] double relative_error(std::span<const float> actual, std::span<const float> expected);

[[nodiscard]] std::string data_path(const std::string& below_tests_data);
[[nodiscard]] std::string nano_path();

}  // namespace longshore
