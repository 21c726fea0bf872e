#include "bench/sequence.h"

#include <algorithm>
#include <numeric>
#include <random>

namespace longshore::bench {

Result<Sequence> Sequence::create(session::LoadedModel& loaded, int64_t length, uint64_t seed) {
  const GlmConfig& config = loaded.checkpoint->config();
  if (length > config.max_positions) {
    return fail(ErrorKind::kUsage, "{} tokens, and the model has {} positions", length,
                config.max_positions);
  }
  LS_TRY(engine::KvPool pool, engine::KvPool::create(loaded.layout, engine::pages_for(length)));
  // In place of the engine's graphs: it does not run beside this.
  LS_TRY_VOID(loaded.model->capture_steps(pool.caches(), loaded.options.graphs));
  Sequence sequence(loaded, std::move(pool));
  LS_CHECK(sequence.pool_.grow(sequence.pages_, engine::pages_for(length)));
  std::mt19937_64 random(seed);
  for (int64_t i = 0; i < length; ++i) {
    sequence.ids_.push_back(
        static_cast<int32_t>(random() % static_cast<uint64_t>(config.vocab_size)));
  }
  sequence.positions_.resize(sequence.ids_.size());
  std::iota(sequence.positions_.begin(), sequence.positions_.end(), 0);
  sequence.sequence_of_.resize(sequence.ids_.size(), 0);
  sequence.logits_.resize(static_cast<size_t>(config.vocab_size));
  return sequence;
}

Result<void> Sequence::step(int64_t tokens) {
  const int32_t last = static_cast<int32_t>(tokens - 1);
  model::StepInput input;
  input.ids = ids_.data() + done_;
  input.batch = {.tokens = tokens,
                 .sequences = 1,
                 .positions = positions_.data() + done_,
                 .sequence_of = sequence_of_.data(),
                 .page_table = pages_.data(),
                 .page_table_width = static_cast<int64_t>(pages_.size())};
  input.logit_rows = std::span(&last, 1);
  input.caches = pool_.caches();
  const auto vocab = static_cast<int64_t>(logits_.size());
  model::StepOutput output;
  output.logits = {reinterpret_cast<std::byte*>(logits_.data()), DType::kF32, 1, vocab, vocab};
  LS_TRY_VOID(loaded_->model->forward(input, output));
  done_ += tokens;
  return {};
}

Result<void> Sequence::advance_to(int64_t length, int64_t chunk, const CancelToken& cancel,
                                  const std::string& doing) {
  while (done_ < length) {
    if (cancel.cancelled()) return fail(ErrorKind::kCancelled, "stopped {}", doing);
    LS_TRY_VOID(step(std::min(chunk, length - done_)));
  }
  return {};
}

}  // namespace longshore::bench
