// What the HTTP layer promises, over real sockets.
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/server/fixture.h"
#include "text/chat_template.h"

namespace longshore::server {
namespace {

using namespace std::string_literals;
using testing::HasSubstr;
using testing::Not;
using text::Json;

class Http : public ServerTest {
 protected:
  void SetUp() override { start(); }
};

TEST_F(Http, AnswersAChat) {
  const Reply reply = ask(chat_request(8, false));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json body = Json::parse(reply.body);
  EXPECT_EQ(body["usage"]["completion_tokens"], 8);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_FALSE(reply.header("date").empty());
  EXPECT_EQ(reply.header("server"), "longshore");
}

TEST_F(Http, StreamsEvents) {
  const Reply reply = ask(chat_request(8, true));
  ASSERT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.complete);
  EXPECT_TRUE(reply.header("content-type").starts_with("text/event-stream"));
  EXPECT_EQ(reply.header("cache-control"), "no-cache");
  EXPECT_EQ(reply.header("x-accel-buffering"), "no");
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n")) << reply.body;
}

TEST_F(Http, StreamsToHttp10UntilTheEnd) {
  const std::string body = chat(4, true);
  Client client(port());
  client.send("POST /v1/chat/completions HTTP/1.0\r\nContent-Length: " +
              std::to_string(body.size()) + "\r\n\r\n" + body);
  const Reply reply = client.reply();
  EXPECT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.head.starts_with("HTTP/1.0 200"));
  EXPECT_TRUE(reply.header("transfer-encoding").empty());
  EXPECT_TRUE(reply.complete);
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n")) << reply.body;
}

TEST_F(Http, KeepsTheConnectionAndAnswersPipelinedRequestsInOrder) {
  Client client(port());
  client.send(get("/health") + chat_request(3, true) + chat_request(2, false) + get("/v1/models"));
  EXPECT_EQ(client.reply().body, R"({"status":"ok"})");
  EXPECT_TRUE(client.reply().body.ends_with("[DONE]\n\n"));
  EXPECT_EQ(Json::parse(client.reply().body)["usage"]["completion_tokens"], 2);
  EXPECT_EQ(Json::parse(client.reply().body)["data"][0]["id"], "glm-nano");
}

TEST_F(Http, ClosesWhenAsked) {
  Client client(port());
  client.send(get("/health", "Connection: close\r\n"));
  EXPECT_EQ(client.reply().header("connection"), "close");
  EXPECT_TRUE(client.closed());
}

TEST_F(Http, AnswersHeadOptionsUnknownPathsAndWrongMethods) {
  Client client(port());
  client.send("HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n");
  const Reply head = client.reply(10, true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.header("content-length"), "15");
  client.send("OPTIONS /v1/messages HTTP/1.1\r\nHost: a\r\n\r\n");
  const Reply options = client.reply();
  EXPECT_EQ(options.status, 204);
  EXPECT_EQ(options.header("allow"), "POST, OPTIONS");
  EXPECT_TRUE(options.header("access-control-allow-origin").empty());
  client.send(get("/v1/nothing"));
  EXPECT_EQ(client.reply().status, 404);
  client.send(get(kChat));
  const Reply wrong = client.reply();
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.header("allow"), "POST, OPTIONS");
  client.send("DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(client.reply().header("allow"), "GET, HEAD, OPTIONS");
}

TEST_F(Http, ErrorsTakeTheDialectOfThePath) {
  const Json openai = Json::parse(ask(post(kChat, "{")).body);
  EXPECT_EQ(openai["error"]["type"], "invalid_request_error");
  const Json anthropic = Json::parse(ask(post("/v1/messages", "{")).body);
  EXPECT_EQ(anthropic["type"], "error");
  EXPECT_EQ(anthropic["error"]["type"], "invalid_request_error");
  const Json models =
      Json::parse(ask(get("/v1/models/other", "anthropic-version: 2023-06-01\r\n")).body);
  EXPECT_EQ(models["error"]["type"], "not_found_error");
}

TEST_F(Http, RefusesMalformedBodies) {
  const std::string deep =
      "{\"messages\": " + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  for (const std::string& body :
       {std::string("{\"messages\": ["), std::string("[]"), std::string("\xff\xfe"),
        std::string(R"({"messages": "hi"})"), std::string(R"({"messages": [{"role": 1}]})"),
        std::string(R"({"model": "glm-nano", "messages": [], "max_tokens": "many"})"), deep}) {
    const Reply reply = ask(post(kChat, body));
    EXPECT_EQ(reply.status, 400) << body.substr(0, 100);
    EXPECT_TRUE(Json::parse(reply.body)["error"]["message"].is_string());
  }
}

TEST_F(Http, RefusesLongHeadersAndLongBodies) {
  const Reply headers = ask(get("/health", "X-Long: " + std::string(100'000, 'x') + "\r\n"));
  EXPECT_EQ(headers.status, 431);
  const Reply body =
      ask("POST /v1/messages HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n{");
  EXPECT_EQ(body.status, 413);
  EXPECT_EQ(Json::parse(body.body)["type"], "error");  // Anthropic's shape
}

TEST_F(Http, RefusesAHugeBodyThatIsStillComing) {
  Client client(port());
  client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n");
  client.send(std::string(8'000'000, 'x'));
  EXPECT_EQ(client.reply().status, 413);
  EXPECT_TRUE(client.closed());
}

TEST_F(Http, RefusesWhatIsNotHttp) {
  EXPECT_EQ(ask("\x16\x03\x01 hello").status, 400);
  EXPECT_EQ(ask("GET / HTTP/1.1\nHost: a\n\n").status, 400);
  Client client(port());
  client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Le");
  client.shut_write();
  EXPECT_EQ(client.reply().status, 400);
}

TEST_F(Http, SaysContinueToThoseWhoWaitForIt) {
  const std::string body = chat(2, false);
  Client client(port());
  client.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: " +
      std::to_string(body.size()) + "\r\n\r\n");
  ASSERT_TRUE(client.wait_for("HTTP/1.1 100 Continue\r\n\r\n"));
  client.send(body);
  EXPECT_EQ(client.reply().status, 200);
  client.send(
      "POST /nowhere HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n");
  EXPECT_EQ(client.reply().status, 404);
  EXPECT_EQ(client.interim_answers(), 1);
}

TEST_F(Http, EchoesTheRequestIdOrMakesOne) {
  EXPECT_EQ(ask(get("/health", "X-Request-Id: abc-1\r\n")).header("x-request-id"), "abc-1");
  EXPECT_TRUE(ask(get("/health")).header("x-request-id").starts_with("req_"));
  EXPECT_TRUE(
      ask(get("/health", "X-Request-Id: a b\r\n")).header("x-request-id").starts_with("req_"));
  EXPECT_FALSE(ask(chat_request(1, true)).header("request-id").empty());
}

TEST_F(Http, TokenizesAndBack) {
  const Json tokens = Json::parse(ask(post("/tokenize", R"({"prompt": "<|user|>Hello ä"})")).body);
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  const Json body = {{"tokens", tokens["tokens"]}, {"skip_special_tokens", false}};
  EXPECT_EQ(Json::parse(ask(post("/detokenize", body.dump())).body)["text"], "<|user|>Hello ä");
  const Json bare = {{"tokens", tokens["tokens"]}};
  EXPECT_EQ(Json::parse(ask(post("/detokenize", bare.dump())).body)["prompt"], "Hello ä");
  const Json several = Json::parse(
      ask(post("/tokenize", R"({"prompt": ["a", "a b"], "return_token_strs": true})")).body);
  EXPECT_EQ(several["tokens"].size(), 2U);
  EXPECT_EQ(several["token_strs"][1].size(), several["count"][1]);
  const Json chat = Json::parse(
      ask(post("/tokenize", R"({"messages": [{"role": "user", "content": "a"}]})")).body);
  EXPECT_GT(chat["count"], 1);
  for (const char* bad : {R"({})", R"({"prompt": 1})", R"({"prompt": "a", "promt": "a"})",
                          R"({"prompt": "a", "messages": []})", R"({"messages": [1]})"}) {
    EXPECT_EQ(ask(post("/tokenize", bad)).status, 400) << bad;
  }
  for (const char* bad :
       {R"({})", R"({"tokens": [-1]})", R"({"tokens": [1e9]})", R"({"tokens": [[1], 2]})",
        R"({"tokens": [99999999]})", R"({"tokens": [1], "skip": 1})",
        R"({"tokens": [18446744073709551615]})"}) {
    EXPECT_EQ(ask(post("/detokenize", bad)).status, 400) << bad;
  }
}

TEST_F(Http, TokenizeReadsMessagesAsAChatDoes) {
  const std::string user = R"({"role": "user", "content": "a"})";
  for (
      const std::string& bad :
      {R"("messages": [{"role": "user", "content": 5}])"s,
       R"("messages": [{"role": "user", "content": {"a": 1}}])"s,
       R"("messages": [{"role": "user"}])"s, R"("messages": [{"role": "wizard", "content": "a"}])"s,
       R"("messages": [{"role": "assistant", "tool_calls": [5]}])"s,
       R"("messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "["}}]}])"s,
       R"("messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}])"s,
       R"("messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}])"s,
       "\"messages\": [" + user + R"(], "tools": [1])",
       "\"messages\": [" + user + R"(], "tools": {"a": 1})",
       "\"messages\": [" + user + R"(], "tools": [{"function": 5}])",
       "\"messages\": [" + user + R"(], "tools": "f")",
       "\"messages\": [" + user + R"(], "chat_template_kwargs": 5)",
       "\"messages\": [" + user + R"(], "promt": 5)",
       "\"messages\": [" + user +
           R"(], "chat_template_kwargs": {"range": 5, "namespace": 5}, "add_generation_prompt": 5)"}) {
    const Reply reply = ask(post("/tokenize", "{" + bad + "}"));
    EXPECT_EQ(reply.status, 400) << bad << ": " << reply.body;
    EXPECT_THAT(reply.body, Not(HasSubstr("glm-nano/"))) << bad;
    EXPECT_THAT(reply.body, Not(HasSubstr("jinja"))) << bad;
  }
  // What only the template itself finds out.
  const std::string broken = "\"messages\": [" + user +
                             R"(], "chat_template_kwargs": {"namespace": 5, "loop_messages": 5})";
  const Reply reply = ask(post("/tokenize", "{" + broken + "}"));
  EXPECT_EQ(reply.status, 400) << reply.body;
  EXPECT_THAT(reply.body, Not(HasSubstr("glm-nano/")));
  const auto count = [&](const std::string& more) {
    return Json::parse(
               ask(post("/tokenize", "{\"messages\": [" + user + "]" + more + "}")).body)["count"]
        .get<int>();
  };
  EXPECT_LT(count(R"(, "add_generation_prompt": false)"), count(""));
  EXPECT_GT(count(R"(, "tools": [{"type": "function", "function": {"name": "f"}}])"), count(""));
}

// A body that takes its worker a good while: text of many different words.
std::string slow_tokenize() {
  std::string text;
  for (int64_t i = 0; text.size() < 6'000'000; ++i) text += "w" + std::to_string(i * 7919) + " ";
  return post("/tokenize", Json{{"prompt", text}}.dump());
}

TEST_F(Http, LargeBodiesDoNotHoldUpSmallOnes) {
  const std::string slow = slow_tokenize();
  std::vector<std::unique_ptr<Client>> large;
  for (int i = 0; i < 3; ++i) {
    large.push_back(std::make_unique<Client>(port()));
    large.back()->send(slow);
  }
  EXPECT_EQ(ask(chat_request(2, false)).status, 200);
  EXPECT_EQ(ask(get("/metrics")).body.find(R"(status="200"} 4)"), std::string::npos)
      << "the small one came last";
  for (const auto& client : large) EXPECT_EQ(client->reply().status, 200);
}

TEST_F(Http, ARequestWhoseClientHasGoneIsNotComputed) {
  const std::string slow = slow_tokenize();
  Client first(port());
  first.send(slow);
  std::vector<std::unique_ptr<Client>> gone;
  for (int i = 0; i < 4; ++i) {
    gone.push_back(std::make_unique<Client>(port()));
    gone.back()->send(slow);
  }
  for (const auto& client : gone) client->reset();
  EXPECT_EQ(first.reply().status, 200);
  EXPECT_TRUE(eventually([&] { return server->open_connections() <= 1; }));
  EXPECT_THAT(ask(get("/metrics")).body, HasSubstr(R"(status="200"} 1)"));
}

TEST_F(Http, WhatCannotFitTheContextIsRefusedBeforeItIsTokenized) {
  const std::string text(6'000'000, 'a');
  const Json message = {{"role", "user"}, {"content", text}};
  const Json chat = {{"messages", Json::array({message})}};
  const Json prompt = {{"prompt", text}};
  for (const std::string& request :
       {post(kChat, chat.dump()), post("/v1/completions", prompt.dump())}) {
    const Reply reply = ask(request);
    EXPECT_EQ(reply.status, 400) << reply.body;
    EXPECT_THAT(reply.body, HasSubstr("context_length_exceeded"));
    EXPECT_THAT(reply.body, HasSubstr("at least")) << "it was tokenized";
    EXPECT_THAT(reply.body, HasSubstr("6000"));
  }
}

TEST_F(Http, ShowsModelsMetricsOffloadAndAFrontPage) {
  EXPECT_EQ(Json::parse(ask(get("/v1/models/glm-nano")).body)["object"], "model");
  EXPECT_EQ(ask(get("/v1/models/other")).status, 404);
  EXPECT_EQ(ask(chat_request(5, true)).status, 200);
  // A reply's end may be read before its last step is counted.
  EXPECT_TRUE(eventually([&] { return idle(); }));
  const Json offload = Json::parse(ask(get("/v1/offload")).body);
  EXPECT_GT(offload["counters"]["routed_experts"], 0);
  EXPECT_EQ(offload["counters"]["routed_experts"], offload["counters"]["computed_on_cpu"]);
  EXPECT_TRUE(offload["resident"].empty());
  EXPECT_EQ(offload["uses"].size(), offload["layers"].get<size_t>());
  int64_t uses = 0;
  for (const Json& layer : offload["uses"]) {
    EXPECT_EQ(layer.size(), offload["experts_per_layer"].get<size_t>());
    for (const Json& one : layer) uses += one.get<int64_t>();
  }
  EXPECT_EQ(uses, offload["counters"]["routes"].get<int64_t>());
  const Reply metrics = ask(get("/metrics"));
  EXPECT_TRUE(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
  for (const char* line :
       {"longshore:generation_tokens_total{is_streaming=\"True\",model_name=\"glm-nano\"} 5",
        "longshore:time_to_first_token_seconds_count{is_streaming=\"True\",model_name=\"glm-nano\"}"
        " 1",
        "longshore:inter_token_latency_seconds_count{model_name=\"glm-nano\"} 4",
        "longshore:num_requests_total{model_name=\"glm-nano\"} 1",
        "longshore:step_tokens_total{kind=\"decode\",model_name=\"glm-nano\"} 4",
        "longshore:kv_pages{model_name=\"glm-nano\",state=\"used\"} 0",
        "longshore:max_running_requests{model_name=\"glm-nano\"} 16",
        "longshore:num_running_reqs{model_name=\"glm-nano\"} 0",
        "longshore:expert_lookups_total{model_name=\"glm-nano\",placement=\"fetched\"} 0",
        "longshore:expert_handshakes_total{model_name=\"glm-nano\"} 0"}) {
    EXPECT_NE(metrics.body.find(line), std::string::npos) << line;
  }
  const auto routed = offload["counters"]["routed_experts"].get<int64_t>();
  EXPECT_THAT(
      metrics.body,
      HasSubstr("longshore:expert_lookups_total{model_name=\"glm-nano\",placement=\"cpu\"} " +
                std::to_string(routed)));
  EXPECT_NE(ask(get("/")).body.find("/v1/chat/completions"), std::string::npos);
}

// The part of `text` between two others.
std::string between(const std::string& text, const std::string& before, const std::string& after) {
  const size_t begin = text.find(before);
  if (begin == std::string::npos) return "";
  const size_t from = begin + before.size();
  return text.substr(from, text.find(after, from) - from);
}

TEST_F(Http, ThePageIsForBrowsersAndForbidsWhatItDoesNotNeed) {
  const Reply page = ask(get("/", "Accept: text/html,*/*;q=0.8\r\n"));
  EXPECT_EQ(page.status, 200);
  EXPECT_EQ(page.header("content-type"), "text/html; charset=utf-8");
  EXPECT_EQ(page.header("cache-control"), "no-cache");
  EXPECT_EQ(page.header("x-content-type-options"), "nosniff");
  EXPECT_THAT(page.header("vary"), HasSubstr("Accept"));
  const std::string policy(page.header("content-security-policy"));
  EXPECT_THAT(policy, HasSubstr("default-src 'none'; script-src 'self'; style-src 'self';"));
  EXPECT_THAT(policy, HasSubstr("trusted-types 'none'"));
  EXPECT_THAT(policy, testing::Not(HasSubstr("unsafe")));
  // Nothing inline, which that policy would refuse.
  EXPECT_THAT(page.body, testing::Not(HasSubstr("style=")));
  EXPECT_THAT(page.body, testing::Not(HasSubstr("onclick")));
  EXPECT_THAT(page.body, testing::Not(HasSubstr("<script>")));
}

TEST_F(Http, ThePagesFilesAreCompressedOnceAndKeptByBrowsers) {
  const Reply page = ask(get("/", "Accept: text/html\r\n"));
  const std::string style = "/" + between(page.body, "rel=\"stylesheet\" href=\"", "\"");
  const Reply plain = ask(get(style));
  EXPECT_EQ(plain.status, 200);
  EXPECT_EQ(plain.header("content-type"), "text/css; charset=utf-8");
  EXPECT_THAT(plain.header("cache-control"), HasSubstr("immutable"));
  EXPECT_TRUE(plain.header("content-encoding").empty());
  const Reply packed = ask(get(style, "Accept-Encoding: br, gzip;q=0.5\r\n"));
  EXPECT_EQ(packed.header("content-encoding"), "gzip");
  EXPECT_LT(packed.body.size(), plain.body.size() / 2);
  EXPECT_NE(packed.header("etag"), plain.header("etag"));
  EXPECT_TRUE(ask(get(style, "Accept-Encoding: gzip;q=0\r\n")).header("content-encoding").empty());
  const std::string tag(packed.header("etag"));
  const Reply same =
      ask(get(style, "Accept-Encoding: gzip\r\nIf-None-Match: \"x\", W/" + tag + "\r\n"));
  EXPECT_EQ(same.status, 304);
  EXPECT_EQ(same.header("etag"), tag);
  EXPECT_TRUE(same.body.empty());
  EXPECT_EQ(ask(get(style, "If-None-Match: \"x\"\r\n")).status, 200);
  EXPECT_EQ(ask(get("/page/other/style.css")).status, 404);
  EXPECT_EQ(ask(post("/page/other/style.css", "{}")).status, 405);
}

class HttpWithKey : public ServerTest {
 protected:
  void SetUp() override {
    options.app.api_key = "secret";
    options.app.cors_origin = "https://page.example";
    start();
  }
};

TEST_F(HttpWithKey, LetsInOnlyWhoHasIt) {
  for (const char* headers :
       {"", "Authorization: Bearer wrong!\r\n", "Authorization: Bearer secre\r\n",
        "Authorization: Bearer secrets\r\n", "Authorization: Basic secret\r\n",
        "x-api-key: \r\n"}) {
    const Reply reply = ask(get("/v1/models", headers));
    EXPECT_EQ(reply.status, 401) << headers;
    EXPECT_EQ(Json::parse(reply.body)["error"]["type"], "authentication_error");
  }
  EXPECT_EQ(ask(get("/v1/models", "authorization: bearer secret\r\n")).status, 200);
  EXPECT_EQ(ask(get("/v1/models", "x-api-key: secret\r\n")).status, 200);
  EXPECT_EQ(ask(get("/metrics")).status, 401);
  EXPECT_EQ(ask(get("/health")).status, 200);
  EXPECT_EQ(ask(get("/", "Accept: text/html\r\n")).status, 200);  // it asks for the key itself
  EXPECT_EQ(Json::parse(ask(post("/v1/messages", "{}")).body)["error"]["type"],
            "authentication_error");
}

TEST_F(HttpWithKey, AnswersAPageOfThatOrigin) {
  const Reply reply = ask(
      "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: a\r\nOrigin: https://page.example\r\n\r\n");
  EXPECT_EQ(reply.status, 204);
  EXPECT_EQ(reply.header("access-control-allow-origin"), "https://page.example");
  EXPECT_FALSE(reply.header("access-control-allow-headers").empty());
}

}  // namespace
}  // namespace longshore::server
