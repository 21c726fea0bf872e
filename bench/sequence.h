// One sequence of random ids that grows by steps of any length, past the engine: what a model costs
// without scheduling.
//
// Ownership: owns its caches; the loaded model outlives it. Threading: one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/error.h"
#include "engine/kv_pool.h"
#include "session/loaded_model.h"

namespace longshore::bench {

class Sequence {
 public:
  // Room for `length` positions. kUsage: the model has fewer; kMemory.
  static Result<Sequence> create(session::LoadedModel& loaded, int64_t length, uint64_t seed);

  // The next `tokens` tokens in one forward pass; the last one's logits. kDevice.
  Result<void> step(int64_t tokens);
  // In steps of at most `chunk`. kCancelled saying `doing`; kDevice.
  Result<void> advance_to(int64_t length, int64_t chunk, const CancelToken& cancel,
                          const std::string& doing);
  // Positions that are filled.
  [[nodiscard]] int64_t length() const { return done_; }

 private:
  Sequence(session::LoadedModel& loaded, engine::KvPool pool)
      : loaded_(&loaded), pool_(std::move(pool)) {}

  session::LoadedModel* loaded_;
  engine::KvPool pool_;
  std::vector<int32_t> pages_, ids_, positions_, sequence_of_;
  std::vector<float> logits_;
  int64_t done_ = 0;
};

}  // namespace longshore::bench
