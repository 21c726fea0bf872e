#include "text/detokenizer.h"

#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"
#include "tests/paths.h"
#include "text/utf8.h"

namespace longshore::text {
namespace {

const Tokenizer& nano() {
  static const Tokenizer tokenizer = [] {
    auto loaded = Tokenizer::load(longshore::source_dir() + "/models/glm-nano/tokenizer.json");
    LS_CHECK_MSG(loaded.has_value(), "{}", loaded.error().message);
    return std::move(*loaded);
  }();
  return tokenizer;
}

// Every piece has to be whole characters.
std::string stream(const std::vector<int32_t>& ids, bool skip_special) {
  StreamDetokenizer detokenizer(nano(), skip_special);
  std::string out;
  const auto add = [&](const std::string& piece) {
    EXPECT_FALSE(find_invalid_utf8(piece).has_value());
    out += piece;
  };
  for (const int32_t id : ids) add(detokenizer.push(id));
  add(detokenizer.finish());
  EXPECT_EQ(detokenizer.finish(), "");
  return out;
}

TEST(StreamDetokenizer, EqualsDecodeOnRandomIds) {
  std::mt19937 random(5);
  for (int round = 0; round < 3000; ++round) {
    // Mostly single bytes: broken characters of every kind.
    std::vector<int32_t> ids(random() % 40);
    for (int32_t& id : ids) {
      const uint32_t kind = random() % 8;
      if (kind < 5) id = static_cast<int32_t>(random() % 256);
      if (kind == 5) id = static_cast<int32_t>(random() % 4096);
      if (kind == 6) id = 4073 + static_cast<int32_t>(random() % 23);
      if (kind == 7) id = static_cast<int32_t>(random() % 10000) - 3000;
    }
    for (const bool skip : {false, true}) EXPECT_EQ(stream(ids, skip), nano().decode(ids, skip));
  }
}

TEST(StreamDetokenizer, HoldsACharacterUntilItIsWhole) {
  auto ids = nano().encode("\xF0\x9F\xA6\x80");
  ASSERT_TRUE(ids.has_value());
  ASSERT_GT(ids->size(), 1U);
  StreamDetokenizer detokenizer(nano());
  for (size_t i = 0; i + 1 < ids->size(); ++i) EXPECT_EQ(detokenizer.push((*ids)[i]), "");
  EXPECT_EQ(detokenizer.push(ids->back()), "\xF0\x9F\xA6\x80");
}

TEST(StreamDetokenizer, AnUnfinishedCharacterIsReplacedAtTheEnd) {
  auto ids = nano().encode("\xF0\x9F\xA6\x80");
  ASSERT_TRUE(ids.has_value());
  StreamDetokenizer detokenizer(nano());
  EXPECT_EQ(detokenizer.push(ids->front()), "");
  EXPECT_EQ(detokenizer.finish(), "\xEF\xBF\xBD");
}

}  // namespace
}  // namespace longshore::text
