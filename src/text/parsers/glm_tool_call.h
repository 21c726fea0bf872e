// GLM's tool calls in the text after the reasoning:
// `<tool_call>NAME<arg_key>K</arg_key><arg_value>V</arg_value>...</tool_call>`, also
// `<tool_call>NAME>{json}</tool_call>`.
//
// Tags that a model forgets are made good where the rest shows what was meant; markup never shows
// as content. A value is typed (tool_schema.h) and passed on when it is whole. Threading: one
// stream, one thread.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "text/output_parser.h"
#include "text/parsers/tool_schema.h"

namespace longshore::text {

class GlmToolCallParser {
 public:
  struct Options {
    bool emit_calls = true;    // false: calls are parsed and dropped
    bool trim_leading = true;  // blank lines before the first content are dropped
  };
  // schemas outlives the parser.
  GlmToolCallParser(const ToolSchemas& schemas, Options options);

  // Both append to `out`. finish(): a call that a limit cut (not stopped) has no kToolCallEnd, and
  // the JSON of its arguments stays open, so that nobody takes it for a whole one.
  void push(std::string_view text, std::vector<OutputDelta>& out);
  void finish(bool stopped, std::vector<OutputDelta>& out);

 private:
  enum class State { kContent, kName, kBetween, kKey, kAfterKey, kValue, kJson, kAfterJson };
  static constexpr size_t kNowhere = static_cast<size_t>(-1);

  // One step on the buffer; false: needs more text.
  bool step();
  bool step_content();
  bool step_name();
  bool step_between();
  bool step_key();
  bool step_after_key();
  bool step_value();
  bool step_json();
  bool step_after_json();
  bool step_nested_call();
  // Finds the tag that ends the current part, with `part_` the text before it; false: needs more
  // text.
  bool next_tag();
  void enter(State state, size_t from);

  // The text after position_ is not a name: it shows as content, without its `<tool_call>`.
  bool reject_call();
  [[nodiscard]] bool is_name(std::string_view name) const;
  // The name in "NAMEKEY", whose `<arg_key>` is missing.
  [[nodiscard]] std::string_view split_glued_key(std::string_view text) const;

  void begin_call(std::string_view name);
  void end_call();
  void leave_call_open();
  void set_value(std::string_view value);
  void end_value_early(size_t end);
  void content(std::string_view text);
  void finish_name(bool stopped);
  void finish_content(bool stopped);
  void emit(OutputDelta::Kind kind, std::string_view text);
  void emit_call(OutputDelta::Kind kind, std::string_view text);

  const ToolSchemas& schemas_;
  Options options_;
  State state_ = State::kContent;
  std::string buffer_;
  size_t position_ = 0;  // start of the current part in buffer_
  size_t scan_ = 0;      // no tag between position_ and here
  std::string_view part_;
  size_t tag_begin_ = 0;
  size_t tag_end_ = 0;
  int tag_ = 0;
  // In a value: where it ends should its own `</arg_value>` be missing.
  size_t close_mark_ = kNowhere;  // the first `</tool_call>`
  size_t key_mark_ = kNowhere;    // the last `<arg_key>`

  std::string call_name_;
  int call_index_ = -1;
  bool call_dropped_ = false;   // nothing of this call is shown
  bool args_done_ = false;      // the arguments' JSON is complete
  std::set<std::string> keys_;  // of this call, so far
  std::string key_;
  int json_depth_ = 0;
  bool json_string_ = false;
  bool json_escape_ = false;

  std::string blank_;  // blank text that shows only if content follows
  bool content_shown_ = false;
  bool call_was_last_ = false;  // no content since the last call
  bool finishing_ = false;
  std::vector<OutputDelta>* out_ = nullptr;  // of the push() under way
};

}  // namespace longshore::text
