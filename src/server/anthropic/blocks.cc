#include "server/anthropic/blocks.h"

#include <utility>

#include <fmt/format.h>

#include "server/api/ids.h"

namespace longshore::server {
namespace {

using Kind = text::OutputDelta::Kind;
using Action = BlockStep::Action;

BlockKind block_kind(Kind kind) {
  if (kind == Kind::kReasoning) return BlockKind::kThinking;
  return kind == Kind::kContent ? BlockKind::kText : BlockKind::kToolUse;
}

}  // namespace

std::string signature_of(const std::string& thinking) {
  return fmt::format("longshore-{:016x}", hash_text(thinking));
}

bool BlockSequence::shown(const text::OutputDelta& delta) const {
  const BlockKind kind = block_kind(delta.kind);
  if (kind == BlockKind::kThinking) return show_thinking_;
  return kind == BlockKind::kText || parallel_calls_ || delta.call_index == 0;
}

std::vector<BlockStep> BlockSequence::close() {
  if (!std::exchange(is_open_, false)) return {};
  BlockStep step{Action::kClose, kind_, block_, call_index_, {}};
  if (kind_ == BlockKind::kThinking) step.text = signature_of(std::exchange(thinking_, {}));
  return {std::move(step)};
}

void BlockSequence::open(BlockKind kind, int call_index, std::string name,
                         std::vector<BlockStep>& steps) {
  is_open_ = true;
  kind_ = kind;
  call_index_ = call_index;
  steps.push_back({Action::kOpen, kind, ++block_, call_index, std::move(name)});
}

std::vector<BlockStep> BlockSequence::take(const text::OutputDelta& delta) {
  if (!shown(delta)) return {};
  const BlockKind kind = block_kind(delta.kind);
  if (delta.kind == Kind::kToolCallEnd) return close();
  std::vector<BlockStep> steps;
  const bool begins = delta.kind == Kind::kToolCallBegin;
  if (begins || !is_open_ || kind_ != kind) {
    steps = close();
    open(kind, delta.call_index, begins ? delta.text : std::string(), steps);
  }
  if (begins) return steps;
  if (kind == BlockKind::kThinking) thinking_ += delta.text;
  steps.push_back({Action::kDelta, kind, block_, call_index_, delta.text});
  return steps;
}

}  // namespace longshore::server
