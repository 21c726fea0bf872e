// A recording of which experts a model was routed to, step by step: what policies are compared on
// without a device.
//
// File: "LSROUTES", then little-endian int32 version (1), layers, experts per layer; then records
// of int32: layer (of MoE layers, from 0), count, and count pairs of expert and tokens routed to
// it. A layer that is not greater than the one before begins a new step.
//
// Threading: one thread.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace longshore::offload {

struct Routed {
  int32_t expert = 0;  // within its layer
  int32_t tokens = 0;  // >= 1
};

// Of one call: tokens_of [experts of the layer].
[[nodiscard]] std::vector<Routed> routed_of(std::span<const int32_t> tokens_of);

struct LayerRoutes {
  int32_t layer = 0;
  bool new_step = false;
  std::vector<Routed> routed;
};

struct Trace {
  int32_t layers = 0;
  int32_t experts = 0;
  std::vector<LayerRoutes> records;

  // kUsage naming the file and what is wrong with it.
  static Result<Trace> read(const std::string& path);
};

// Writes as the model runs.
class TraceWriter {
 public:
  // kIo: the file cannot be written.
  static Result<TraceWriter> create(const std::string& path, int32_t layers, int32_t experts);
  // The first failure is kept for close().
  void add(int32_t layer, std::span<const Routed> routed);
  // Everything is on its way to the disk, or kIo.
  [[nodiscard]] Result<void> close();

 private:
  struct Closer {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Closer> file_;
  std::vector<int32_t> record_;  // scratch
  bool failed_ = false;
};

}  // namespace longshore::offload
