#include "session/stop_strings.h"

#include <gtest/gtest.h>

namespace longshore::session {
namespace {

struct Outcome {
  std::string text;
  std::string matched;
  bool operator==(const Outcome&) const = default;
};

// mask: bit i cuts the text after byte i.
Outcome run(const std::string& text, const std::vector<std::string>& stops, uint32_t mask,
            bool keep = false) {
  StopStrings filter(stops, keep);
  Outcome outcome;
  std::string piece;
  for (size_t i = 0; i < text.size(); ++i) {
    piece += text[i];
    if ((mask >> i & 1U) == 0 && i + 1 < text.size()) continue;
    outcome.text += filter.push(piece);
    piece.clear();
  }
  if (filter.matched().empty()) outcome.text += filter.finish();
  outcome.matched = filter.matched();
  return outcome;
}

TEST(StopStrings, AnySplitEqualsTheWhole) {
  const std::vector<std::vector<std::string>> sets = {
      {"abc"},          {"aab"},        {"abcd", "bc"}, {"bc", "abcd"},
      {"ab", "b", "a"}, {"abab", "ba"}, {"bca", "cab"}, {"zz"}};
  for (const std::string text : {"xabcdx", "aaaabc", "ababab", "cabcab", "aabbcc", "abca"}) {
    for (const std::vector<std::string>& stops : sets) {
      for (const bool keep : {false, true}) {
        const Outcome whole = run(text, stops, 0, keep);
        for (uint32_t mask = 0; mask < 1U << text.size(); ++mask) {
          ASSERT_EQ(run(text, stops, mask, keep), whole)
              << text << " stop " << stops[0] << " cuts " << mask;
        }
      }
    }
  }
}

TEST(StopStrings, TheMatchThatEndsFirstCountsAndOfThoseTheLongest) {
  EXPECT_EQ(run("xabcdx", {"abcd", "bc"}, 0), (Outcome{"xa", "bc"}));
  EXPECT_EQ(run("xabc", {"bc", "abc", "c"}, 0), (Outcome{"x", "abc"}));
  EXPECT_EQ(run("xab", {"ab", "a"}, 0), (Outcome{"x", "a"}));
}

TEST(StopStrings, HoldsBackOnlyWhatCouldBecomeAStop) {
  StopStrings filter({"STOP", "\n\n"});
  EXPECT_EQ(filter.push("go S"), "go ");
  EXPECT_EQ(filter.push("T"), "");
  EXPECT_EQ(filter.push("AY\n"), "STAY");
  EXPECT_EQ(filter.push("more"), "\nmore");
  EXPECT_EQ(filter.push("STO"), "");
  EXPECT_EQ(filter.finish(), "STO");
  EXPECT_EQ(filter.finish(), "");
  EXPECT_TRUE(filter.matched().empty());
}

TEST(StopStrings, DropsEverythingAfterTheMatch) {
  StopStrings filter({"END"});
  EXPECT_EQ(filter.push("one END two"), "one ");
  EXPECT_EQ(filter.matched(), "END");
  EXPECT_EQ(filter.push("three"), "");
  EXPECT_EQ(filter.finish(), "");
}

TEST(StopStrings, KeepStopShowsTheStopItself) {
  EXPECT_EQ(run("one END two", {"END"}, 0b1111111, true), (Outcome{"one END", "END"}));
}

TEST(StopStrings, WithoutStopsNothingIsHeld) {
  StopStrings filter({});
  EXPECT_EQ(filter.push("abc"), "abc");
  EXPECT_EQ(filter.finish(), "");
}

}  // namespace
}  // namespace longshore::session
