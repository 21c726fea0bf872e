// Failures in both dialects' forms.
#include "server/anthropic/errors.h"

#include <set>

#include <gtest/gtest.h>

#include "server/api/ids.h"
#include "server/openai/errors.h"

namespace longshore::server {
namespace {

using text::Json;

Json openai(int status) {
  return Json::parse(
      openai_error({.status = status, .message = "m", .param = "", .code = ""}))["error"];
}
Json anthropic(int status) {
  return Json::parse(
      anthropic_error({.status = status, .message = "m", .param = "p", .code = "c"}));
}

TEST(ApiErrors, OpenAisFormHasMessageTypeParamAndCode) {
  const Json error = Json::parse(
      openai_error({.status = 400, .message = "n: wrong", .param = "n", .code = "bad_value"}));
  EXPECT_EQ(
      error,
      Json::parse(
          R"({"error": {"message": "n: wrong", "type": "invalid_request_error", "param": "n", "code": "bad_value"}})"));
  EXPECT_TRUE(openai(400)["param"].is_null());
  EXPECT_TRUE(openai(400)["code"].is_null());
}

TEST(ApiErrors, OpenAisTypesFollowTheStatus) {
  EXPECT_EQ(openai(400)["type"], "invalid_request_error");
  EXPECT_EQ(openai(401)["type"], "authentication_error");
  EXPECT_EQ(openai(403)["type"], "permission_error");
  EXPECT_EQ(openai(404)["type"], "invalid_request_error");
  EXPECT_EQ(openai(413)["type"], "invalid_request_error");
  EXPECT_EQ(openai(429)["type"], "rate_limit_error");
  EXPECT_EQ(openai(500)["type"], "server_error");
  EXPECT_EQ(openai(503)["type"], "server_error");
  EXPECT_EQ(openai(505)["type"], "invalid_request_error");
}

TEST(ApiErrors, AnthropicsTypesFollowTheStatus) {
  EXPECT_EQ(
      anthropic(400),
      Json::parse(
          R"({"type": "error", "error": {"type": "invalid_request_error", "message": "m"}})"));
  EXPECT_EQ(anthropic(401)["error"]["type"], "authentication_error");
  EXPECT_EQ(anthropic(403)["error"]["type"], "permission_error");
  EXPECT_EQ(anthropic(404)["error"]["type"], "not_found_error");
  EXPECT_EQ(anthropic(405)["error"]["type"], "invalid_request_error");
  EXPECT_EQ(anthropic(413)["error"]["type"], "request_too_large");
  EXPECT_EQ(anthropic(429)["error"]["type"], "rate_limit_error");
  EXPECT_EQ(anthropic(500)["error"]["type"], "api_error");
  EXPECT_EQ(anthropic(503)["error"]["type"], "overloaded_error");
  EXPECT_EQ(anthropic(529)["error"]["type"], "overloaded_error");
  EXPECT_EQ(anthropic(504)["error"]["type"], "timeout_error");
}

TEST(ApiErrors, TheEnginesErrorsHaveAStatus) {
  EXPECT_EQ(api_error({ErrorKind::kUsage, "m"}).status, 400);
  EXPECT_EQ(api_error({ErrorKind::kBusy, "m"}).status, 429);
  EXPECT_EQ(api_error({ErrorKind::kMemory, "m"}).status, 503);
  EXPECT_EQ(api_error({ErrorKind::kCancelled, "m"}).status, 503);
  EXPECT_EQ(api_error({ErrorKind::kDevice, "m"}).status, 500);
  EXPECT_EQ(api_error({ErrorKind::kModel, "m"}).status, 500);
  EXPECT_EQ(api_error({ErrorKind::kIo, "m"}).message, "m");
}

TEST(ApiErrors, BrokenUtf8InAMessageIsStillJson) {
  EXPECT_EQ(Json::parse(openai_error(
                {.status = 400, .message = "\xff", .param = "", .code = ""}))["error"]["message"],
            "\xEF\xBF\xBD");
}

TEST(ApiIds, AreAFunctionOfTheAnswerAndThePlace) {
  const Ids ids;
  std::set<std::string> seen;
  for (uint64_t which = 0; which < 50; ++which) {
    for (uint64_t part = 0; part < 50; ++part) {
      EXPECT_EQ(ids.make("x", which, part), ids.make("x", which, part));
      EXPECT_EQ(ids.make("x", which, part).size(), 25U);
      seen.insert(ids.make("x", which, part));
    }
  }
  EXPECT_EQ(seen.size(), 2500U);
  EXPECT_NE(Ids().make("x"), Ids().make("x"));
}

}  // namespace
}  // namespace longshore::server
