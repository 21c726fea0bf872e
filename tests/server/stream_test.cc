// Streams, waiting and leaving: back-pressure, disconnects, deadlines, queues, the end.
#include <chrono>
#include <future>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "tests/paths.h"
#include "tests/server/fixture.h"
#include "text/chat_template.h"

namespace longshore::server {
namespace {

using text::Json;

constexpr int kEndless = 8000;  // tokens: many seconds

class Streams : public ServerTest {};

TEST_F(Streams, AReaderWhoLeavesFreesPagesAtOnce) {
  start();
  Client client(port());
  client.send(chat_request(kEndless, true));
  ASSERT_TRUE(client.wait_for("\"content\""));
  ASSERT_TRUE(eventually([&] { return server->counters().running == 1; }));
  client.close();
  EXPECT_TRUE(eventually([&] { return idle(); }, 3));
  EXPECT_LT(server->counters().generated_tokens, kEndless);
  EXPECT_NE(ask(get("/metrics")).body.find("num_aborted_requests_total{model_name=\"glm-nano\"} 1"),
            std::string::npos);
  EXPECT_TRUE(eventually([&] { return server->open_connections() == 0; }, 5));
}

TEST_F(Streams, AClientWhoLeavesWhileItWaitsIsNoticed) {
  start();
  Client client(port());
  client.send(chat_request(kEndless, false));
  ASSERT_TRUE(eventually([&] { return server->counters().running == 1; }));
  client.close();
  EXPECT_TRUE(eventually([&] { return idle(); }, 3));
  EXPECT_TRUE(eventually([&] { return server->open_connections() == 0; }, 5));
}

TEST_F(Streams, AClientWhoLeavesTheQueueIsNoticed) {
  load_options.max_running = 1;
  start();
  Client running(port());
  running.send(chat_request(kEndless, true));
  ASSERT_TRUE(running.wait_for("\"content\""));
  ASSERT_TRUE(eventually(
      [&] { return server->counters().running == 1 && server->counters().queued == 0; }));
  Client waiting(port());
  waiting.send(chat_request(5, true));
  ASSERT_TRUE(eventually([&] { return server->counters().queued == 1; }));
  waiting.close();
  EXPECT_TRUE(eventually([&] { return server->counters().queued == 0; }, 3));
  EXPECT_EQ(server->counters().running, 1);
}

TEST_F(Streams, AllChoicesOfACallLeaveTogether) {
  start();
  Client client(port());
  client.send(chat_request(kEndless, true, R"(, "n": 3)"));
  ASSERT_TRUE(eventually([&] { return server->counters().running == 3; }));
  client.close();
  EXPECT_TRUE(eventually([&] { return idle(); }, 3));
}

TEST_F(Streams, AHalfClosedClientGetsItsWholeAnswer) {
  start();
  for (const bool stream : {false, true}) {
    Client client(port());
    client.send(chat_request(40, stream));
    client.shut_write();
    const Reply reply = client.reply();
    ASSERT_EQ(reply.status, 200);
    EXPECT_TRUE(reply.complete);
    const bool whole = stream ? reply.body.ends_with("[DONE]\n\n")
                              : Json::parse(reply.body)["usage"]["completion_tokens"] == 40;
    EXPECT_TRUE(whole) << reply.body;
    EXPECT_TRUE(client.closed());
  }
}

TEST_F(Streams, ASlowReaderHoldsNobodyUpAndIsCut) {
  options.pending_bytes = 40'000;
  options.send_buffer = 4096;
  start();
  Client slow(port(), 4096);
  slow.send(chat_request(kEndless, true, R"(, "logprobs": true, "top_logprobs": 20)"));
  ASSERT_TRUE(slow.wait_for("200 OK"));
  // It reads no more; others do.
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ask(chat_request(20, true)).status, 200);
  EXPECT_TRUE(eventually([&] { return idle(); }, 60));
  EXPECT_TRUE(eventually([&] { return server->open_connections() == 0; }, 5));
}

TEST_F(Streams, CommentsKeepALongPrefillAlive) {
  options.keep_alive = 0.005;
  start();
  std::string words;
  for (int i = 0; i < 150; ++i) words += " seven plus nine";
  const Json body = {{"model", "glm-nano"},
                     {"stream", true},
                     {"max_tokens", 2},
                     {"messages", Json::array({{{"role", "user"}, {"content", words}}})}};
  const Reply reply = ask(post(kChat, body.dump()));
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_NE(reply.body.find("\n\n:"), std::string::npos) << reply.body.substr(0, 500);
  EXPECT_TRUE(reply.body.ends_with("[DONE]\n\n"));
}

TEST_F(Streams, ADeadlineEndsTheRequest) {
  options.request_timeout = 0.3;
  start();
  const Reply whole = ask(chat_request(kEndless, false));
  EXPECT_EQ(whole.status, 504);
  EXPECT_EQ(Json::parse(whole.body)["error"]["code"], "deadline_exceeded");
  const Reply stream = ask(chat_request(kEndless, true));
  EXPECT_EQ(stream.status, 200);
  EXPECT_TRUE(stream.complete);
  EXPECT_NE(stream.body.find("deadline_exceeded"), std::string::npos);
  EXPECT_TRUE(eventually([&] { return idle(); }, 3));
}

TEST_F(Streams, MoreChoicesThanCanEverRunAreRefusedForGood) {
  load_options.max_running = 1;
  load_options.max_queued = 1;
  start();
  EXPECT_EQ(ask(chat_request(2, false, R"(, "n": 2)")).status, 200);
  const Reply chat = ask(chat_request(2, false, R"(, "n": 3)"));
  EXPECT_EQ(chat.status, 400);
  EXPECT_EQ(Json::parse(chat.body)["error"]["param"], "n");
  const Reply prompts =
      ask(post("/v1/completions", R"({"prompt": ["a", "b", "c"], "max_tokens": 1})"));
  EXPECT_EQ(prompts.status, 400) << prompts.body;
}

TEST_F(Streams, AFullQueueSays429AndWhenToComeAgain) {
  load_options.max_running = 1;
  load_options.max_queued = 1;
  start();
  Client running(port());
  running.send(chat_request(kEndless, true));
  ASSERT_TRUE(running.wait_for("\"content\""));
  ASSERT_TRUE(eventually(
      [&] { return server->counters().running == 1 && server->counters().queued == 0; }));
  Client waiting(port());
  waiting.send(chat_request(3, false));
  ASSERT_TRUE(eventually([&] { return server->counters().queued == 1; }));
  const Reply refused = ask(chat_request(3, true));
  EXPECT_EQ(refused.status, 429);
  EXPECT_FALSE(refused.header("retry-after").empty());
  EXPECT_EQ(
      ask(post(
              "/v1/messages",
              R"({"model": "m", "max_tokens": 3, "messages": [{"role": "user", "content": "a"}]})"))
          .status,
      429);
  running.close();
  EXPECT_EQ(waiting.reply().status, 200);
}

TEST_F(Streams, DrainingFinishesWhatWasAccepted) {
  options.drain = 600;  // a sanitizer on a busy machine takes its time
  start();
  Client idle_client(port());
  idle_client.send(get("/health"));
  EXPECT_EQ(idle_client.reply().status, 200);
  Client streaming(port());
  streaming.send(chat_request(200, true));
  ASSERT_TRUE(streaming.wait_for("\"content\""));
  Client waiting(port());
  waiting.send(chat_request(200, false));
  ASSERT_TRUE(eventually([&] { return server->counters().running == 2; }));
  auto stopped = std::async(std::launch::async, [&] { return server->stop(); });
  const Reply stream = streaming.reply();
  EXPECT_TRUE(stream.complete);
  EXPECT_TRUE(stream.body.ends_with("[DONE]\n\n"));
  const Reply whole = waiting.reply();
  EXPECT_EQ(whole.status, 200);
  EXPECT_TRUE(stopped.get());
  EXPECT_TRUE(idle_client.closed());
  EXPECT_TRUE(idle());
  Client late(port());
  late.send(get("/health"));
  EXPECT_EQ(late.reply(1).status, 0);
}

TEST_F(Streams, WhatOutlivesTheDrainEndsWithAnError) {
  options.drain = 0.2;
  start();
  Client streaming(port());
  streaming.send(chat_request(kEndless, true));
  ASSERT_TRUE(streaming.wait_for("\"content\""));
  Client waiting(port());
  waiting.send(chat_request(kEndless, false));
  ASSERT_TRUE(eventually([&] { return server->counters().running == 2; }));
  auto stopped = std::async(std::launch::async, [&] { return server->stop(); });
  const Reply stream = streaming.reply();
  EXPECT_TRUE(stream.complete);
  EXPECT_NE(stream.body.find("shutting down"), std::string::npos);
  EXPECT_EQ(waiting.reply().status, 503);
  EXPECT_FALSE(stopped.get());
  EXPECT_TRUE(idle());
}

TEST_F(Streams, AServerGoesAwayUnderLoad) {
  start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 20; ++i) {
    clients.push_back(std::make_unique<Client>(port()));
    clients.back()->send(chat_request(kEndless, i % 2 == 0));
  }
  ASSERT_TRUE(eventually([&] { return server->counters().running > 0; }));
  server.reset();
  for (auto& client : clients) EXPECT_TRUE(client->closed());
}

TEST_F(Streams, SlowAndSilentClientsAreToldOff) {
  options.read_timeout = 0.2;
  options.idle_timeout = 0.4;
  start();
  Client slow(port());
  slow.send("POST /v1/chat/completions HTTP/1.1\r\nHost:");
  EXPECT_EQ(slow.reply(5).status, 408);
  Client half(port());
  half.send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_EQ(half.reply(5).status, 408);
  Client silent(port());
  EXPECT_TRUE(silent.closed(5));
  EXPECT_EQ(silent.buffer(), "");
}

TEST_F(Streams, TwoHundredStreamsAtOnce) {
  start();
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 200; ++i) {
    clients.push_back(std::make_unique<Client>(port()));
    clients.back()->send(chat_request(3, true));
  }
  for (auto& client : clients) {
    const Reply reply = client->reply(120);
    ASSERT_EQ(reply.status, 200);
    EXPECT_TRUE(reply.body.ends_with("[DONE]\n\n"));
  }
  EXPECT_TRUE(eventually([&] { return idle(); }, 3));
}

TEST(Server, SaysWhyItCannotListen) {
  set_log_level(LogLevel::kError);
  session::LoadOptions load;
  load.model = longshore::source_dir() + "/models/glm-nano";
  CancelToken cancel;
  auto loaded = session::LoadedModel::load(load, {}, cancel);
  ASSERT_TRUE(loaded);
  ServerOptions options;
  options.host = "not an address";
  const auto bad = Server::start(**loaded, options);
  ASSERT_FALSE(bad);
  EXPECT_NE(bad.error().message.find("--host"), std::string::npos);
}

}  // namespace
}  // namespace longshore::server
