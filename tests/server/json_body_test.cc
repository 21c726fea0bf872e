#include "server/json_body.h"

#include <string>

#include <gtest/gtest.h>

namespace longshore::server {
namespace {

std::string nested(int depth, const char* open, const char* inner, const char* close) {
  std::string text;
  for (int i = 0; i < depth; ++i) text += open;
  text += inner;
  for (int i = 0; i < depth; ++i) text += close;
  return text;
}

std::string message_of(const std::string& body) {
  const auto parsed = parse_json_body(body);
  if (parsed) return "";
  EXPECT_EQ(parsed.error().status, 400);
  EXPECT_EQ(parsed.error().message.find('\n'), std::string::npos);
  return parsed.error().message;
}

TEST(JsonBody, ParsesObjectsInOrder) {
  const auto parsed = parse_json_body(R"({"b": 1, "a": "\ud83d\ude00 [[[{{{"})");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->begin().key(), "b");
}

TEST(JsonBody, RefusesDeepNesting) {
  EXPECT_EQ(message_of(nested(256, "{\"a\":", "1", "}")), "");
  EXPECT_NE(message_of(nested(257, "{\"a\":", "1", "}")).find("256 levels"), std::string::npos);
  EXPECT_NE(message_of("{\"a\":" + nested(256, "[", "", "]") + "}").find("256 levels"),
            std::string::npos);
  EXPECT_NE(message_of(nested(1'000'000, "[", "", "")).find("256 levels"), std::string::npos);
  // Brackets in strings, escaped quotes among them, do not count.
  EXPECT_EQ(message_of("{\"a\": \"\\\"" + std::string(1000, '[') + "\"}"), "");
}

TEST(JsonBody, SaysWhereItIsNotJson) {
  EXPECT_NE(message_of("{\"a\": 1,\n \"b\": tru}").find("line 2, column 10"), std::string::npos)
      << message_of("{\"a\": 1,\n \"b\": tru}");
  for (const char* bad :
       {"{", "{\"a\":}", "{\"a\":1,}", "{'a':1}", "{\"a\":01}", "{\"a\":NaN}", "{\"a\":\"\n\"}",
        "{\"a\":\"\\ud800\"}", "{\"a\":1}x", "\xef\xbb\xbf", "nul"}) {
    EXPECT_NE(message_of(bad), "") << bad;
  }
}

TEST(JsonBody, RefusesInvalidUtf8) {
  for (const char* bad : {"{\"a\":\"\xff\"}", "{\"a\":\"\xc0\xaf\"}", "{\"a\":\"\xed\xa0\x80\"}",
                          "{\"a\":\"\xf0\x9f\x98\"}"}) {
    EXPECT_NE(message_of(bad).find("UTF-8"), std::string::npos) << bad;
  }
}

TEST(JsonBody, RefusesWhatIsNoObject) {
  EXPECT_NE(message_of("").find("empty"), std::string::npos);
  EXPECT_NE(message_of("[1]").find("object"), std::string::npos);
  EXPECT_NE(message_of("\"a\"").find("object"), std::string::npos);
  EXPECT_NE(message_of("{\"a\": 1e999}").find("number"), std::string::npos);
}

}  // namespace
}  // namespace longshore::server
