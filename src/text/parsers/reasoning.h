// Splits a model's output into the reasoning before `</think>` and the rest.
//
// Blank text around the reasoning is dropped, as GLM's own template does with history. Threading:
// one stream, one thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace longshore::text {

class ReasoningSplitter {
 public:
  struct Pieces {
    std::string reasoning;
    std::string rest;  // comes after the reasoning
  };

  // starts_in_reasoning: the prompt ended with `<think>`. A `<think>` that the model writes itself
  // at the start is taken either way. tool_names: a call to one of these inside the reasoning ends
  // it, since GLM at times forgets `</think>` before a call; empty: never.
  ReasoningSplitter(bool starts_in_reasoning, std::vector<std::string> tool_names);

  Pieces push(std::string_view text);
  // stopped: the model ended by itself; reasoning that never ended is then the answer and comes as
  // `rest` again.
  Pieces finish(bool stopped);

 private:
  enum class State { kStart, kReasoning, kAfter, kRest };
  enum class Call { kYes, kNo, kUndecided };

  bool step(Pieces& out);  // false: needs more text
  bool step_start();
  bool step_reasoning(Pieces& out);
  bool step_after();
  std::string_view after_blank();        // buffer_ from its first character that is not blank
  void enter(State state, size_t from);  // drops what lies before `from`
  // Is the text after `<tool_call>` the name of a tool?
  [[nodiscard]] Call is_call(std::string_view after) const;
  void add_reasoning(std::string_view text, Pieces& out);

  bool starts_in_reasoning_;
  std::vector<std::string> tool_names_;
  State state_ = State::kStart;
  std::string buffer_;     // not yet decided
  size_t scan_ = 0;        // nothing of interest in buffer_ before this
  std::string blank_;      // blank text that is dropped if the reasoning ends here
  std::string reasoning_;  // all so far; empty after its end
};

}  // namespace longshore::text
