#include "engine/score.h"

#include <algorithm>
#include <numeric>

#include "engine/kv_pool.h"
#include "engine/sampler.h"

namespace longshore::engine {
namespace {

MatrixView view(std::vector<float>& values, int64_t first_row, int64_t rows, int64_t cols) {
  return {reinterpret_cast<std::byte*>(values.data() + first_row * cols), DType::kF32, rows, cols,
          cols};
}

// The state of one scored sequence.
struct Run {
  model::Model& model;
  const ScoreRequest& request;
  KvPool pool;
  std::vector<int32_t> pages;
  std::vector<int32_t> positions;
  std::vector<int32_t> sequence_of;
  std::vector<float> hidden;      // [chunk, hidden] of this step
  std::vector<float> mtp_hidden;  // the same of the MTP layer
  Scores scores;

  [[nodiscard]] int64_t length() const { return static_cast<int64_t>(request.ids.size()); }
  [[nodiscard]] int64_t first_row() const { return length() - scores.rows; }
};

model::StepInput input_at(Run& run, int64_t start, int64_t tokens,
                          const std::vector<int32_t>& rows) {
  std::iota(run.positions.begin(), run.positions.begin() + tokens, static_cast<int32_t>(start));
  model::StepInput input;
  input.ids = run.request.ids.data() + start;
  input.batch.tokens = tokens;
  input.batch.sequences = 1;
  input.batch.positions = run.positions.data();
  input.batch.sequence_of = run.sequence_of.data();
  input.batch.page_table = run.pages.data();
  input.batch.page_table_width = static_cast<int64_t>(run.pages.size());
  input.logit_rows = rows;
  input.caches = run.pool.caches();
  return input;
}

void keep_rows(const std::vector<float>& from, int64_t start, int64_t tokens, int64_t cols,
               Run& run, std::vector<float>& to) {
  for (int64_t i = std::max<int64_t>(0, run.first_row() - start); i < tokens; ++i) {
    std::copy_n(from.begin() + i * cols, cols, to.begin() + (start + i - run.first_row()) * cols);
  }
}

// A broken weight must not end in a silent table of NaN.
Result<void> check_finite(const Run& run, const std::vector<float>& logits, const char* what,
                          int64_t row, int64_t rows) {
  const auto vocab = static_cast<size_t>(run.model.config().vocab_size);
  for (int64_t i = row; i < row + rows; ++i) {
    if (all_finite(std::span(logits).subspan(static_cast<size_t>(i) * vocab, vocab))) continue;
    return fail(ErrorKind::kModel,
                "the {} of position {} are not finite: a weight is broken (run `longshore inspect` "
                "to find it) or the "
                "arithmetic overflowed",
                what, run.first_row() + i);
  }
  return {};
}

// A forward pass's error, with how far the sequence has come if it was stopped.
tl::unexpected<Error> ended(const Run& run, int64_t tokens, const Error& error) {
  if (error.kind != ErrorKind::kCancelled) return tl::unexpected<Error>(error);
  return fail(ErrorKind::kCancelled, "stopped after {} of {} tokens", tokens, run.length());
}

Result<void> score_chunk(Run& run, int64_t start, int64_t tokens, const CancelToken& cancel) {
  const GlmConfig& config = run.model.config();
  std::vector<int32_t> rows;
  for (int64_t i = std::max<int64_t>(0, run.first_row() - start); i < tokens; ++i)
    rows.push_back(static_cast<int32_t>(i));
  const auto wanted = static_cast<int64_t>(rows.size());
  const int64_t row = std::max<int64_t>(0, start - run.first_row());
  model::StepInput input = input_at(run, start, tokens, rows);
  input.observer = run.request.observer;
  input.cancel = &cancel;
  model::StepOutput output;
  output.hidden = view(run.hidden, 0, tokens, config.hidden_size);
  output.logits = view(run.scores.logits, row, wanted, config.vocab_size);
  if (const auto passed = run.model.forward(input, output); !passed)
    return ended(run, start, passed.error());
  keep_rows(run.hidden, start, tokens, config.hidden_size, run, run.scores.hidden);
  LS_TRY_VOID(check_finite(run, run.scores.logits, "logits", row, wanted));
  if (run.request.mtp == nullptr) return {};

  std::vector<int32_t> next(run.request.ids.begin() + start + 1,
                            run.request.ids.begin() + std::min(start + tokens + 1, run.length()));
  if (static_cast<int64_t>(next.size()) < tokens) {
    const auto last = run.scores.logits.end() - config.vocab_size;
    next.push_back(static_cast<int32_t>(std::max_element(last, run.scores.logits.end()) - last));
  }
  input.ids = next.data();
  input.observer = run.request.mtp_observer;
  output.hidden = view(run.mtp_hidden, 0, tokens, config.hidden_size);
  output.logits = view(run.scores.mtp_logits, row, wanted, config.vocab_size);
  if (const auto passed = run.request.mtp->forward(input, run.model.hidden(), output); !passed)
    return ended(run, start, passed.error());
  keep_rows(run.mtp_hidden, start, tokens, config.hidden_size, run, run.scores.mtp_hidden);
  return check_finite(run, run.scores.mtp_logits, "MTP logits", row, wanted);
}

Result<void> validate(const GlmConfig& config, const ScoreRequest& request) {
  const auto length = static_cast<int64_t>(request.ids.size());
  if (length == 0) return fail(ErrorKind::kUsage, "no token ids: give at least one");
  if (length > config.max_positions) {
    return fail(ErrorKind::kUsage,
                "{} token ids, and the model has {} positions: shorten the input", length,
                config.max_positions);
  }
  if (request.last != -1 && (request.last < 1 || request.last > length)) {
    return fail(ErrorKind::kUsage, "--last {}: it must lie in [1, {}], the number of ids",
                request.last, length);
  }
  for (int32_t id : request.ids) {
    if (id < 0 || id >= config.vocab_size) {
      return fail(ErrorKind::kUsage, "token id {} is not in the vocabulary of {}", id,
                  config.vocab_size);
    }
  }
  return {};
}

}  // namespace

Result<Scores> score(model::Model& model, const model::KvLayout& layout,
                     const ScoreRequest& request, const CancelToken& cancel) {
  const GlmConfig& config = model.config();
  LS_CHECK(request.chunk >= 1 && request.chunk <= model.limits().tokens);
  LS_TRY_VOID(validate(config, request));
  const auto length = static_cast<int64_t>(request.ids.size());
  LS_TRY(KvPool pool, KvPool::create(layout, pages_for(length)));
  Run run{model, request, std::move(pool), {}, {}, {}, {}, {}, {}};
  run.scores.rows = request.last == -1 ? length : request.last;
  const bool mtp = request.mtp != nullptr;
  const auto rows = static_cast<size_t>(run.scores.rows);
  const auto vocab = static_cast<size_t>(config.vocab_size);
  const auto hidden = static_cast<size_t>(config.hidden_size);
  const auto chunk = static_cast<size_t>(request.chunk);
  run.scores.logits.resize(rows * vocab);
  run.scores.hidden.resize(rows * hidden);
  run.scores.mtp_logits.resize(mtp ? rows * vocab : 0);
  run.scores.mtp_hidden.resize(mtp ? rows * hidden : 0);
  run.hidden.resize(chunk * hidden);
  run.mtp_hidden.resize(mtp ? chunk * hidden : 0);
  run.positions.resize(chunk);
  run.sequence_of.resize(chunk, 0);
  LS_CHECK(run.pool.grow(run.pages, pages_for(length)));
  for (int64_t start = 0; start < length; start += request.chunk) {
    LS_TRY_VOID(score_chunk(run, start, std::min(request.chunk, length - start), cancel));
  }
  return std::move(run.scores);
}

}  // namespace longshore::engine
