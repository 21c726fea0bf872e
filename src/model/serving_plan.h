// Where every byte of a model would go on a machine and how fast it could serve there, before
// anything is loaded. Pure.
//
// Bounds, not promises: a token's missing experts are split between wire and CPU, a prefill chunk
// brings every expert that is not resident once. Source of the arithmetic: docs/PERF.md, "Expert
// offload".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace longshore::model {

struct Machine {
  int64_t device_bytes = 0;  // of memory; 0: no device
  int64_t host_bytes = 0;
  double wire_gbs = 55;      // host to device
  double dram_gbs = 100;     // that the CPU's expert kernel reads while the wire is busy
  double device_gbs = 3000;  // of the device's memory
};

// Bytes of a checkpoint by where they go. The MTP layer counts among them where it drafts.
struct ModelBytes {
  GlmConfig config;    // without MTP layers where none drafts
  int64_t drafts = 0;  // that the MTP layer guesses ahead at most; 0: it is not loaded
  int64_t unread = 0;  // the MTP layer's then: in files that offloading reads whole
  int64_t dense = 0;   // everything but routed experts and the embedding table: read by every step
  int64_t embedding = 0;   // one row a token
  int64_t experts = 0;     // routed, all layers
  int64_t expert = 0;      // one
  int64_t moe_layers = 0;  // of the main model
  int64_t experts_per_layer = 0;
  int64_t experts_per_token = 0;
  int64_t cache_token = 0;  // latents and index keys of all layers, production arithmetic
  int64_t kv_b = 0;         // of dense, kv_b_proj of all layers
  int64_t kv_b_split = 0;   // what is computed with: its halves in bf16
  // What a device's kv_b_proj takes beyond the checkpoint's; negative where that is wider.
  [[nodiscard]] int64_t retyped() const { return kv_b_split - kv_b; }
};
// From the headers alone; latents: as the cache keeps them; drafts: --speculative-num-steps, with
// which there is an MTP layer.
[[nodiscard]] ModelBytes model_bytes(const Checkpoint& checkpoint, DType latents = DType::kBF16,
                                     int64_t drafts = 0);
// Of FP8 weights with scales for every 128x128, as the hub's GLM-5.1-FP8 has them: no checkpoint is
// there.
[[nodiscard]] ModelBytes model_bytes(const GlmConfig& config, DType latents = DType::kBF16,
                                     int64_t drafts = 0);

struct ServingPlan {
  int64_t device_dense = 0;    // weights outside the routed experts, as the device has them
  int64_t device_cache = 0;    // of one context, in whole pages
  int64_t device_work = 0;     // activations, scratch, the ring that experts pass through
  int64_t device_graphs = 0;   // captured steps, about
  int64_t device_experts = 0;  // slots
  int64_t resident = 0;        // experts in slots
  // The checkpoint where an expert has no slot; without a device all weights and the cache.
  int64_t host = 0;
  double decode_bound = 0;  // tokens/s of one sequence; experts equally likely
  double prefill_bound =
      0;  // tokens/s in chunks of `chunk`; 0: nothing streams, so the wire does not bound it
  // What does not fit, a line each with the numbers and what to change; empty: it serves.
  std::vector<std::string> problems;
};

// Sequences of a step, as serve has them without a flag.
constexpr int64_t kPlannedSequences = 32;

// Of device_work: room that is the driver's, and the scratch memory of operations. Loading a model
// takes none of it.
[[nodiscard]] int64_t spare_bytes(int64_t chunk);

[[nodiscard]] ServingPlan plan_serving(const ModelBytes& model, const Machine& machine,
                                       int64_t context, int64_t chunk);

// Seconds of a layer that misses `misses` experts of `bytes` each, one token each: the best integer
// split.
[[nodiscard]] double layer_seconds(int64_t misses, int64_t bytes, const Machine& machine);

}  // namespace longshore::model
