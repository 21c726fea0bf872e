// Stop strings over streamed text: nothing that could be the beginning of a stop string is let out
// too early.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace longshore::session {

// Threading: one stream, one thread.
class StopStrings {
 public:
  // stops: non-empty strings. keep_stop: the stop string itself is part of the output.
  explicit StopStrings(std::vector<std::string> stops, bool keep_stop = false);

  // The text that may be shown now. After a match (matched()) everything from the stop string on is
  // dropped. Of several matches the one that ends first counts, the longest of those, however the
  // text is split.
  std::string push(std::string_view text);
  // The end of the stream without a match: what was held back.
  std::string finish();
  // The stop string that was found, or empty.
  [[nodiscard]] const std::string& matched() const { return matched_; }

 private:
  std::vector<std::string> stops_;
  bool keep_stop_;
  std::string held_;
  std::string matched_;
};

}  // namespace longshore::session
