// Parsed deltas as the steps of Anthropic's content blocks: one block is open at a time, and closed
// before the next opens.
//
// Threading: one answer, one thread.
#pragma once

#include <string>
#include <vector>

#include "text/output_parser.h"

namespace longshore::server {

enum class BlockKind { kThinking, kText, kToolUse };

struct BlockStep {
  enum class Action { kOpen, kDelta, kClose };
  Action action;
  BlockKind kind;
  int block = 0;       // index among the blocks
  int call_index = 0;  // of kToolUse
  std::string
      text;  // kOpen of a tool: its name; kDelta: the piece; kClose of thinking: the signature
};

class BlockSequence {
 public:
  BlockSequence(bool show_thinking, bool parallel_calls)
      : show_thinking_(show_thinking), parallel_calls_(parallel_calls) {}

  std::vector<BlockStep> take(const text::OutputDelta& delta);
  // The end of the answer.
  std::vector<BlockStep> close();

 private:
  [[nodiscard]] bool shown(const text::OutputDelta& delta) const;
  void open(BlockKind kind, int call_index, std::string name, std::vector<BlockStep>& steps);

  bool show_thinking_;
  bool parallel_calls_;
  bool is_open_ = false;
  BlockKind kind_ = BlockKind::kText;
  int call_index_ = 0;
  int block_ = -1;
  std::string thinking_;
};

// What a client sends back with a thinking block. It proves nothing: this server takes every
// thinking block as it is.
[[nodiscard]] std::string signature_of(const std::string& thinking);

}  // namespace longshore::server
