// Steps of several sequences at once through a model, past the engine.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "engine/kv_pool.h"
#include "tests/model/golden.h"

namespace longshore {

// Sequences of random ids, each with its own scattered pages, in caches of a pool.
struct StepBatch {
  StepBatch(TestModel& m, int64_t sequences, int64_t width)
      : test(m), width(width), pool(*engine::KvPool::create(m.layout, sequences * width + 1)) {
    // Page 0 is what capturing writes to.
    for (int32_t page = 1; page <= sequences * width; ++page) table.push_back(page);
    std::shuffle(table.begin(), table.end(), random);
    lengths.resize(static_cast<size_t>(sequences), 0);
  }

  // The next `tokens` tokens of the sequences, logits of all rows.
  Result<std::vector<float>> step(const std::vector<int64_t>& sequences, int64_t tokens,
                                  const CancelToken* cancel = nullptr) {
    std::vector<int32_t> ids, positions, sequence_of, rows, pages;
    for (size_t b = 0; b < sequences.size(); ++b) {
      const auto s = static_cast<size_t>(sequences[b]);
      for (int64_t i = 0; i < tokens; ++i) {
        ids.push_back(static_cast<int32_t>(random() %
                                           static_cast<uint64_t>(test.model->config().vocab_size)));
        positions.push_back(lengths[s]++);
        sequence_of.push_back(static_cast<int32_t>(b));
        rows.push_back(static_cast<int32_t>(rows.size()));
      }
      pages.insert(pages.end(), table.begin() + sequences[b] * width,
                   table.begin() + (sequences[b] + 1) * width);
    }
    model::StepInput input;
    input.ids = ids.data();
    input.batch = {.tokens = static_cast<int64_t>(ids.size()),
                   .sequences = static_cast<int64_t>(sequences.size()),
                   .positions = positions.data(),
                   .sequence_of = sequence_of.data(),
                   .page_table = pages.data(),
                   .page_table_width = width};
    input.logit_rows = rows;
    input.caches = pool.caches();
    input.cancel = cancel;
    const int64_t vocab = test.model->config().vocab_size;
    std::vector<float> logits(rows.size() * static_cast<size_t>(vocab), NAN);
    model::StepOutput output;
    output.logits = {reinterpret_cast<std::byte*>(logits.data()), DType::kF32,
                     static_cast<int64_t>(rows.size()), vocab, vocab};
    LS_TRY_VOID(test.model->forward(input, output));
    return logits;
  }

  TestModel& test;
  int64_t width;
  engine::KvPool pool;
  std::mt19937_64 random{7};
  std::vector<int32_t> table, lengths;
};

}  // namespace longshore
