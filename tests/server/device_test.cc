// The server on a device: where the experts are, and what clients hear when it fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/model/fake_device.h"
#include "tests/server/fixture.h"
#include "text/chat_template.h"

namespace longshore::server {
namespace {

using testing::HasSubstr;
using Json = text::Json;

class OnADevice : public ServerTest {
 protected:
  void SetUp() override {
    load_options.threads = 1;
    load_options.context_length = 512;
    load_options.max_total_tokens = 2048;
    load_options.backend = [this](ThreadPool& pool) -> std::unique_ptr<kernels::Backend> {
      auto inner = kernels::make_cpu_backend(pool, "generic");
      LS_CHECK(inner.has_value());
      auto made = std::make_unique<FakeDevice>(std::move(*inner));
      device = made.get();
      return made;
    };
    start();
  }

  FakeDevice* device = nullptr;
};

TEST_F(OnADevice, SaysWhereTheExpertsAre) {
  EXPECT_EQ(ask(chat_request(3, false)).status, 200);
  const Json offload = Json::parse(ask(get("/v1/offload")).body);
  EXPECT_EQ(offload["device"]["name"], "fake");
  EXPECT_EQ(offload["device"]["experts"], offload["host"]["experts"]);
  // Scales, a four thousandth, lie apart.
  EXPECT_GE(offload["device"]["pool_bytes"].get<double>(),
            0.999 * offload["host"]["bytes"].get<double>());
  ASSERT_FALSE(offload["resident"].empty());
  for (const Json& layer : offload["resident"])
    EXPECT_EQ(layer.get<std::string>().find('0'), std::string::npos) << "everything is there";
  EXPECT_GT(offload["counters"]["routes"], 0);
  EXPECT_EQ(offload["counters"]["routes"], offload["counters"]["routes_on_device"]);
  EXPECT_EQ(offload["counters"]["routed_experts"], 0);
}

TEST_F(OnADevice, ABudgetThatDoesNotExistIsRefusedByName) {
  const auto change = [&](const char* body) { return ask(post("/v1/offload/budget", body)); };
  const Reply refused = change(R"({"gpu_expert_gib": 0.01})");
  EXPECT_EQ(refused.status, 400) << "everything is resident";
  EXPECT_THAT(refused.body, HasSubstr("--gpu-expert-gib"));
  for (const char* body : {"{}", R"({"gpu_expert_gib": -1})", R"({"gpu_expert_gib": "2"})",
                           R"({"gpu_expert_gib": 1, "x": 2})"}) {
    EXPECT_EQ(change(body).status, 400) << body;
  }
}

class OnASmallDevice : public OnADevice {
 protected:
  void SetUp() override {
    load_options.gpu_expert_gib = 0.01;
    OnADevice::SetUp();
  }
};

TEST_F(OnASmallDevice, ABudgetChangesWhileServing) {
  Client streaming(port());
  streaming.send(chat_request(60, true));
  ASSERT_TRUE(streaming.wait_for("data: "));
  const size_t graphs = device->live_graphs();
  EXPECT_GT(graphs, 0U);
  const Reply changed = ask(post("/v1/offload/budget", R"({"gpu_expert_gib": 0.002})"));
  ASSERT_EQ(changed.status, 200) << changed.body;
  const int64_t slots = Json::parse(changed.body)["slots"];
  EXPECT_TRUE(streaming.reply().body.ends_with("[DONE]\n\n"));
  EXPECT_EQ(ask(chat_request(3, false)).status, 200);
  const Json device_now = Json::parse(ask(get("/v1/offload")).body)["device"];
  EXPECT_EQ(device_now["slots_used_at_most"], slots);
  EXPECT_GT(device_now["slots"], slots);
  EXPECT_LE(device_now["experts"], slots);
  EXPECT_EQ(device->live_graphs(), graphs) << "nothing is captured anew";
  EXPECT_GT(device->launches, 30) << "most of 60 tokens";
  EXPECT_EQ(ask(post("/v1/offload/budget", R"({"gpu_expert_gib": 9})")).status, 400);
}

// Layers of passes that paused, where a long prompt came beside a stream.
class Pausing : public OnADevice {
 protected:
  void SetUp() override {}
  double paused_layers(double share) {
    load_options.gpu_expert_gib = 0;
    load_options.beside_share = share;
    OnADevice::SetUp();
    Client streaming(port());
    streaming.send(chat_request(400, true));
    EXPECT_TRUE(streaming.wait_for("data: "));
    std::string prompt;
    for (int i = 0; i < 15; ++i) prompt += " 7 plus " + std::to_string(i);
    const Json body = {{"prompt", prompt}, {"max_tokens", 2}, {"ignore_eos", true}};
    const Reply completed = ask(post("/v1/completions", body.dump()));
    EXPECT_EQ(completed.status, 200) << completed.body;
    EXPECT_GE(server->counters().running, 1) << "the stream was there all the time";
    streaming.close();
    EXPECT_TRUE(eventually([&] { return idle(); }));
    const std::string name = "longshore:prefill_pass_layers_total{model_name=\"glm-nano\"} ";
    const std::string metrics = ask(get("/metrics")).body;
    const size_t at = metrics.find(name);
    EXPECT_NE(at, std::string::npos);
    return std::stod(metrics.substr(at + name.size()));
  }
};

TEST_F(Pausing, APromptPausesForWhoDecodes) {
  EXPECT_GT(paused_layers(1e6), 0);
}

TEST_F(Pausing, APromptDoesNotPauseWhereThatIsForbidden) {
  EXPECT_EQ(paused_layers(-1), 0);
}

TEST_F(OnADevice, AFaultIsAServerErrorForWhoRunsWhoStreamsAndWhoComesLater) {
  EXPECT_EQ(ask(get("/health")).status, 200);
  Client streaming(port());
  streaming.send(chat_request(400, true));
  ASSERT_TRUE(streaming.wait_for("data: "));
  device->fail_at(500);
  const Reply streamed = streaming.reply();
  EXPECT_THAT(streamed.body, HasSubstr("\"error\""));
  EXPECT_THAT(streamed.body, HasSubstr("told to fail"));
  EXPECT_TRUE(streamed.complete);
  const Reply later = ask(chat_request(4, false));
  EXPECT_EQ(later.status, 500);
  EXPECT_THAT(later.body, HasSubstr("told to fail"));
  EXPECT_TRUE(eventually([&] { return server->counters().fault.has_value(); }));
  EXPECT_TRUE(eventually([&] { return idle(); }));
  const Reply health = ask(get("/health"));
  EXPECT_EQ(health.status, 503);
  EXPECT_THAT(health.body, HasSubstr("failed"));
}

}  // namespace
}  // namespace longshore::server
