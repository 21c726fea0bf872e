// glm-nano, the bundled trained model, against transformers: fp32 reference and the production backends.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include <nlohmann/json.hpp>

#include "tests/engine/driver.h"
#include "tests/model/golden.h"
#include "tests/model/recorder.h"

namespace longshore {
namespace {

using nlohmann::json;

const json& goldens() {
  static const json list = json::parse(std::ifstream(data_path("goldens/glm-nano/goldens.json")));
  return list;
}

std::vector<std::string> names() {
  std::vector<std::string> all;
  for (const json& golden : goldens()) all.push_back(golden["name"]);
  return all;
}

const json& golden_named(const std::string& name) {
  for (const json& golden : goldens()) {
    if (golden["name"] == name) return golden;
  }
  LS_FAIL("no golden {}", name);
}

// The smallest recorded distance between a chosen and a not chosen index score or expert.
double smallest_margin(const json& check) {
  double smallest = 1;
  for (const json& margin : check["margins"]) {
    if (!margin.is_null()) smallest = std::min(smallest, margin["min_gap"].get<double>());
  }
  for (const json& gap : check["router_min_gap_per_moe_layer"]) smallest = std::min(smallest, gap.get<double>());
  return smallest;
}

TestModel& reference() {
  static TestModel model(nano_path(), "reference");
  return model;
}

class NanoGolden : public testing::TestWithParam<std::string> {
 protected:
  NanoGolden()
      : info_(golden_named(GetParam())),
        file_(data_path("goldens/glm-nano/" + info_["file"].get<std::string>())),
        ids_(file_.ints("input_ids")),
        length_(static_cast<int64_t>(ids_.size())) {}

  const json& info_;
  GoldenFile file_;
  std::vector<int32_t> ids_;
  int64_t length_;
};

std::set<int32_t> chosen(const std::vector<int32_t>& ids) {
  std::set<int32_t> set(ids.begin(), ids.end());
  set.erase(-1);
  return set;
}

// Sets may differ only in positions whose scores lie closer than a near tie to the last chosen one.
void expect_same_choice(const std::set<int32_t>& actual, const std::set<int32_t>& expected,
                        const std::vector<float>& scores) {
  ASSERT_EQ(actual.size(), expected.size());
  float threshold = scores[static_cast<size_t>(*expected.begin())];
  for (int32_t id : expected) threshold = std::min(threshold, scores[static_cast<size_t>(id)]);
  std::vector<int32_t> differing;
  std::set_symmetric_difference(actual.begin(), actual.end(), expected.begin(), expected.end(),
                                std::back_inserter(differing));
  for (int32_t id : differing) EXPECT_NEAR(scores[static_cast<size_t>(id)], threshold, 1e-5) << "position " << id;
}

// Positions whose set of experts differs.
int differing_routes(const std::vector<int32_t>& actual, const std::vector<int32_t>& expected) {
  LS_CHECK(actual.size() == expected.size());
  int differing = 0;
  for (size_t i = 0; i < actual.size(); i += 4) {
    differing += chosen({&actual[i], &actual[i] + 4}) == chosen({&expected[i], &expected[i] + 4}) ? 0 : 1;
  }
  return differing;
}

TEST_P(NanoGolden, ReferenceMatchesEveryGoldenTensor) {
  const double tolerance = smallest_margin(info_["check"]) < 1e-5 ? 3e-3 : 1e-4;
  Recorder recorder(length_, false);
  const bool mtp = info_["has_mtp"];
  const engine::Scores scores = reference().score(ids_, 8, 512, mtp, &recorder);
  EXPECT_LT(relative_error(scores.logits, file_.floats("logits_last8")), tolerance);
  EXPECT_LT(relative_error(scores.hidden, file_.floats("hidden_last8")), tolerance);
  if (mtp) {
    EXPECT_LT(relative_error(scores.mtp_logits, file_.floats("mtp_logits_last8")), tolerance);
    EXPECT_LT(relative_error(scores.mtp_hidden, file_.floats("mtp_hidden_last8")), tolerance);
  }
  const std::vector<float> hidden = file_.floats("layer_hidden_last");
  for (int64_t layer = -1; layer < 5; ++layer) {
    const std::span row = std::span(recorder.hidden[layer]).last(256);
    EXPECT_LT(relative_error(row, std::span(hidden).subspan(static_cast<size_t>(layer + 1) * 256, 256)), tolerance)
        << "layer " << layer;
  }
  for (int64_t layer : {0, 4}) {
    const std::string suffix = "_L" + std::to_string(layer);
    const std::vector<int32_t>& all = recorder.selected[layer];
    const std::vector<int32_t> last(all.end() - 128, all.end());
    expect_same_choice(chosen(last), chosen(file_.ints("index_topk" + suffix)), file_.floats("index_scores" + suffix));
  }
  // A route may differ only where the recorded margin says that it hangs by rounding.
  const double gap = info_["check"]["router_min_gap_per_moe_layer"][1];
  EXPECT_LE(differing_routes(recorder.route_ids[2], file_.ints("router_ids_L2")), gap < 1e-5 ? 1 : 0) << gap;
}

TEST_P(NanoGolden, ReferenceGreedyContinuationIsIdentical) {
  const auto engine = engine::make_engine(
      reference(), {.context_length = static_cast<int64_t>(ids_.size()) + 48, .max_running = 1, .prefill_budget = 511});
  EXPECT_EQ(engine::run(*engine, engine::greedy(ids_, 48)).ids, file_.ints("greedy"));
}

INSTANTIATE_TEST_SUITE_P(All, NanoGolden, testing::ValuesIn(names()), [](const auto& info) { return info.param; });

// KL(expected || actual) of two rows of logits.
double kl_divergence(std::span<const float> expected, std::span<const float> actual) {
  const auto log_total = [](std::span<const float> logits) {
    const float highest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (float logit : logits) sum += std::exp(static_cast<double>(logit) - highest);
    return highest + std::log(sum);
  };
  const double a = log_total(expected);
  const double b = log_total(actual);
  double kl = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double p = expected[i] - a;
    kl += std::exp(p) * (p - (actual[i] - b));
  }
  return kl;
}

class NanoProduction : public testing::TestWithParam<const char*> {};

TEST_P(NanoProduction, StaysCloseToTheGoldens) {
  const std::string isa = GetParam();
  ThreadPool probe(1);
  if (auto backend = kernels::make_cpu_backend(probe, isa); !backend) GTEST_SKIP() << backend.error().message;
  TestModel model(nano_path(), isa);
  int equal = 0;
  int positions = 0;
  for (const json& golden : goldens()) {
    const GoldenFile file(data_path("goldens/glm-nano/" + golden["file"].get<std::string>()));
    const std::vector<int32_t> ids = file.ints("input_ids");
    const engine::Scores scores = model.score(ids, 8, 512, false);
    const std::vector<float> expected = file.floats("logits_last8");
    double kl = 0;
    for (size_t row = 0; row < 8; ++row) {
      const std::span e = std::span(expected).subspan(row * 4096, 4096);
      const std::span a = std::span(scores.logits).subspan(row * 4096, 4096);
      kl += kl_divergence(e, a) / 8;
      equal += std::max_element(e.begin(), e.end()) - e.begin() == std::max_element(a.begin(), a.end()) - a.begin();
      ++positions;
    }
    const std::string name = golden["name"];
    EXPECT_LE(kl, name == "prose" ? 0.1 : 0.01) << name;
    RecordProperty("kl_" + name, std::to_string(kl));
    std::printf("%s %s: mean KL %.5f\n", isa.c_str(), name.c_str(), kl);
  }
  EXPECT_EQ(positions, 72);
  EXPECT_GE(equal, 68);
  std::printf("%s: argmax equal at %d of %d positions\n", isa.c_str(), equal, positions);
}

INSTANTIATE_TEST_SUITE_P(All, NanoProduction, testing::Values("generic", "avx2", "avx512", "avx512bf16", "amx"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace longshore
