// A checkpoint: the validated config and every tensor, memory-mapped. No computation.
//
// Ownership: the Checkpoint owns the mappings; views stay valid until it is destroyed. It moves, it
// does not copy. Threading: const functions may be called from any thread.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "base/tensor.h"
#include "base/topology.h"
#include "checkpoint/config.h"

namespace longshore {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;  // no alignment promise
  int64_t bytes = 0;
  std::string file;  // shard, for messages
};

// Called while loading with bytes done and in total; from one thread.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

class Checkpoint {
 public:
  // model_dir in Hugging Face layout: config.json and model.safetensors or
  // model.safetensors.index.json with shards. Headers are read and validated, data is mapped, not
  // read. Errors: kModel, one line naming file, tensor and remedy.
  static Result<Checkpoint> open(const std::string& model_dir);
  // Generated weights of GLM-5.1's true shapes, "glm-5.1:dense=D,moe=M[,mtp=1]", in anonymous
  // memory; deterministic in seed. threads: how many fill the memory, with a topology of several
  // nodes each matrix's rows on the nodes of base/topology.h. Errors: kUsage (specification),
  // kMemory (with the numbers, before allocating), kCancelled.
  static Result<Checkpoint> synthetic(std::string_view specification, uint64_t seed, int threads,
                                      const Topology& topology, const LoadProgress& progress,
                                      const CancelToken& cancel);
  // The config of such weights alone. kUsage.
  static Result<GlmConfig> synthetic_config(std::string_view specification);
  // Generated weights for any config: FP8 linears, everything else in the dtypes of the hub's
  // GLM-5.1-FP8. where: a name for messages. kMemory, kCancelled.
  static Result<Checkpoint> synthetic_from_config(const GlmConfig& config, const std::string& where,
                                                  uint64_t seed, int threads,
                                                  const Topology& topology,
                                                  const LoadProgress& progress,
                                                  const CancelToken& cancel);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;

  [[nodiscard]] const GlmConfig& config() const;
  [[nodiscard]] const std::string& where() const;  // directory or specification, for messages
  // nullptr when absent.
  [[nodiscard]] const TensorInfo* find(std::string_view name) const;
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const;  // by name, ascending
  [[nodiscard]] int64_t total_bytes() const;

  // The weight matrix `name` [out, in]; with a sibling `<name>_scale_inv` it must be FP8, without
  // one F32, BF16 or F16. name ends in ".weight". Checks dtype, shape, the scales' shape and that
  // all of them are finite. kModel.
  [[nodiscard]] Result<WeightView> weight(std::string_view name, int64_t out, int64_t in) const;
  // A vector of `size` floating-point numbers, converted to fp32. Non-finite numbers are refused.
  // kModel.
  [[nodiscard]] Result<std::vector<float>> vector(std::string_view name, int64_t size) const;

  // Whether every tensor that the config demands is there with its shape, a supported dtype and
  // fitting scales, from the headers alone: one line per problem, empty when sound. unused, unless
  // null, receives the names of tensors that the config does not demand. Callers that compute
  // should ask before they load: weight() finds the same faults one by one.
  [[nodiscard]] std::vector<std::string> check_layout(
      std::vector<std::string>* unused = nullptr) const;

  // Tensors that a shard holds and model.safetensors.index.json does not name; they are used all
  // the same.
  [[nodiscard]] const std::vector<std::string>& unindexed() const;

  // Layers that have an indexer although the config makes them use another layer's choices: one
  // line each, for a warning.
  [[nodiscard]] std::vector<std::string> contradicted_indexers() const;

  // Reads all mapped bytes once so that serving does not wait for the disk. kCancelled when
  // cancelled, kIo when a page cannot be read.
  Result<void> prefault(int threads, const LoadProgress& progress, const CancelToken& cancel) const;

  // Reads all files into memory of the process's own, in huge pages where the system grants them:
  // what a device can lock and the CPU reads fastest. With a topology of several nodes each
  // matrix's rows lie on the nodes of base/topology.h, to the nearest huge page. Views that were
  // given out before are void.
  // Generated weights are there already. kMemory with the numbers, before anything is read;
  // kCancelled, kIo.
  Result<void> read_into_memory(int threads, const Topology& topology, const LoadProgress& progress,
                                const CancelToken& cancel);
  // The memory that all tensors lie in, one range a file.
  [[nodiscard]] std::vector<std::span<const std::byte>> memory() const;

  // Everything `inspect` verifies: each tensor that the config demands is there with its shape and
  // a supported dtype, scales fit and are finite, no tensor holds NaN or infinity; tensors that
  // nothing uses are listed. Reads all bytes, on all CPUs. kCancelled, kIo.
  struct Verification {
    std::vector<std::string> problems;  // one line each; empty: sound
    std::vector<std::string> unused;    // tensor names
  };
  [[nodiscard]] Result<Verification> verify(const LoadProgress& progress,
                                            const CancelToken& cancel) const;

 private:
  struct Impl;
  explicit Checkpoint(std::unique_ptr<Impl> impl);
  static Result<void> add_shard(Impl& impl, const std::string& path);
  [[nodiscard]] Result<WeightView> view(std::string_view name, int64_t out, int64_t in) const;
  [[nodiscard]] Result<void> populate(const TensorInfo& tensor, int64_t begin, int64_t bytes) const;

  std::unique_ptr<Impl> impl_;
};

}  // namespace longshore
