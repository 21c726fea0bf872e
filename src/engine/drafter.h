// Guesses what comes next with the MTP layer, and keeps that layer's caches in step with the main
// model's.
//
// After every step of the main model the layer goes over the same positions: row t takes the main
// model's hidden state at t and the id at t + 1. So its caches are there wherever the main
// model's are: prompts in chunks, prefixes found in the cache, sequences computed again. (Of a
// shared page's last position it saw the id that came next when the page was made; another one
// costs an accepted draft, never a wrong token.) Where guesses are wanted it goes on from its own
// hidden states, one position a time. What it writes at positions of guesses is overwritten when
// the tokens there are known: going back is a change of length.
//
// Ownership: model and MTP layer outlive it. Threading: the engine's thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/sequence.h"
#include "model/model.h"

namespace longshore::engine {

class Drafter {
 public:
  Drafter(model::Mtp& mtp, int64_t vocab) : mtp_(&mtp), vocab_(vocab) {}

  struct Item {
    Sequence* sequence;
    int64_t start;              // position of the first row
    int64_t row;                // ... in the main model's last step
    std::vector<int32_t> next;  // the ids at start + 1, ..., one for every row that counts
    int64_t most;               // guesses wanted after the last row; their pages are there
  };
  // Writes the guesses to Sequence::drafts. hidden: the main model's, [rows, hidden]. Where the
  // layer gives no finite numbers there are no guesses. Errors as Mtp::forward().
  Result<void> run(std::span<const Item> items, ConstMatrixView hidden,
                   std::span<const model::LayerCache> caches);

 private:
  struct Guesser {
    const Item* item;
    int64_t row;  // of the layer's last step
  };
  void begin();
  void add_sequence(const Sequence& sequence);
  void add_row(int64_t position, int32_t next, int64_t hidden_row);
  Result<void> step(ConstMatrixView hidden, std::span<const model::LayerCache> caches);
  void take_guesses();

  model::Mtp* mtp_;
  int64_t vocab_;
  std::vector<Guesser> guessers_;  // of whom row i of the logits is
  // One step of the layer.
  std::vector<int32_t> ids_;          // [T]
  std::vector<int32_t> positions_;    // [T]
  std::vector<int32_t> sequence_of_;  // [T]
  std::vector<int32_t> hidden_rows_;  // [T]
  std::vector<const Sequence*> sequences_;
  std::vector<int32_t> page_table_;
  std::vector<int32_t> logit_rows_;
  std::vector<float> logits_;  // [logit rows, vocab]
};

}  // namespace longshore::engine
