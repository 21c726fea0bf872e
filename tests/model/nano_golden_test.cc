// glm-nano, the bundled trained model, against transformers: fp32 reference and the production
// backends.
#include <cmath>
#include <fstream>
#include <map>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>
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
  for (const json& gap : check["router_min_gap_per_moe_layer"])
    smallest = std::min(smallest, gap.get<double>());
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
  for (int32_t id : differing)
    EXPECT_NEAR(scores[static_cast<size_t>(id)], threshold, 1e-5) << "position " << id;
}

// Positions whose set of experts differs.
int differing_routes(const std::vector<int32_t>& actual, const std::vector<int32_t>& expected) {
  LS_CHECK(actual.size() == expected.size());
  int differing = 0;
  for (size_t i = 0; i < actual.size(); i += 4) {
    differing +=
        chosen({&actual[i], &actual[i] + 4}) == chosen({&expected[i], &expected[i] + 4}) ? 0 : 1;
  }
  return differing;
}

// The weights of each position's experts, in the order of their ids: a near tie may order them
// otherwise.
std::vector<float> by_expert(const std::vector<int32_t>& ids, const std::vector<float>& weights) {
  LS_CHECK(ids.size() == weights.size());
  std::vector<float> ordered;
  for (size_t i = 0; i < ids.size(); i += 4) {
    std::map<int32_t, float> row;
    for (size_t k = i; k < i + 4; ++k) row[ids[k]] = weights[k];
    for (const auto& [id, weight] : row) ordered.push_back(weight);
  }
  return ordered;
}

TEST_P(NanoGolden, ReferenceMatchesEveryGoldenTensor) {
  const double tolerance = smallest_margin(info_["check"]) < 1e-5 ? 3e-3 : 1e-4;
  Recorder recorder(length_, false);
  const bool mtp = info_["has_mtp"];
  const engine::Scores scores = reference().score(ids_, 8, 512, mtp, &recorder);
  double worst = 0;
  const auto compare = [&](std::span<const float> actual, std::span<const float> expected,
                           const std::string& what) {
    const double error = relative_error(actual, expected);
    EXPECT_LT(error, tolerance) << what;
    worst = std::max(worst, error);
    RecordProperty(what, fmt::format("{:.3g}", error));
  };
  compare(scores.logits, file_.floats("logits_last8"), "logits");
  compare(scores.hidden, file_.floats("hidden_last8"), "hidden");
  if (mtp) {
    compare(scores.mtp_logits, file_.floats("mtp_logits_last8"), "mtp_logits");
    compare(scores.mtp_hidden, file_.floats("mtp_hidden_last8"), "mtp_hidden");
  }
  const std::vector<float> hidden = file_.floats("layer_hidden_last");
  for (int64_t layer = -1; layer < 5; ++layer) {
    const std::span row = std::span(recorder.hidden[layer]).last(256);
    compare(row, std::span(hidden).subspan(static_cast<size_t>(layer + 1) * 256, 256),
            fmt::format("hidden_layer_{}", layer + 1));
  }
  for (int64_t layer : {0, 4}) {
    const std::string suffix = "_L" + std::to_string(layer);
    const std::vector<int32_t>& all = recorder.selected[layer];
    const std::vector<int32_t> last(all.end() - 128, all.end());
    expect_same_choice(chosen(last), chosen(file_.ints("index_topk" + suffix)),
                       file_.floats("index_scores" + suffix));
  }
  // A route may differ only where the recorded margin says that it hangs by rounding.
  const double gap = info_["check"]["router_min_gap_per_moe_layer"][1];
  const std::vector<int32_t> routes = file_.ints("router_ids_L2");
  const int differing = differing_routes(recorder.route_ids[2], routes);
  EXPECT_LE(differing, gap < 1e-5 ? 1 : 0) << gap;
  if (differing == 0) {
    compare(by_expert(recorder.route_ids[2], recorder.route_weights[2]),
            by_expert(routes, file_.floats("router_weights_L2")), "router_weights_L2");
  }
  fmt::print("{}: relative error at most {:.2g}, allowed {:.0e}\n", GetParam(), worst, tolerance);
}

// 300 tokens are 4.7 pages and more than twice index_topk: every chunk below ends on one side of a
// page's end or on it.
TEST(NanoChunks, LogitsDoNotDependOnWhereTheStepsAreCut) {
  const auto vocab = reference().checkpoint->config().vocab_size;
  const std::vector<int32_t> ids = engine::prompt_of(312, static_cast<int32_t>(vocab));
  const engine::Scores whole = reference().score(ids, -1, 312, true);
  for (const int64_t chunk : {63, 64, 65}) {
    const engine::Scores cut = reference().score(ids, -1, chunk, true);
    EXPECT_LT(relative_error(cut.logits, whole.logits), 1e-4) << chunk;
    EXPECT_LT(relative_error(cut.mtp_logits, whole.mtp_logits), 1e-4) << chunk;
  }
}

TEST(NanoChunks, ADecodeTailHasTheLogitsOfOnePrefillWhateverTheChunk) {
  const auto vocab = reference().checkpoint->config().vocab_size;
  const std::vector<int32_t> ids = engine::prompt_of(300, static_cast<int32_t>(vocab));
  for (const int64_t chunk : {63, 64, 65}) {
    const auto engine = engine::make_engine(
        reference(),
        {.context_length = 400, .max_running = 1, .prefill_budget = chunk, .pages = 8});
    engine::GenerationRequest request = engine::greedy(ids, 24);  // crosses the page's end at 320
    request.ignore_stop_ids = true;
    request.sampling.top_logprobs = 20;
    const engine::Generated generated = engine::run(*engine, request);
    ASSERT_EQ(generated.ids.size(), 24U);
    std::vector<int32_t> all = ids;
    all.insert(all.end(), generated.ids.begin(), generated.ids.end());
    const engine::Scores scores = reference().score(all, 25, 400, false);
    for (size_t i = 0; i < generated.tokens.size(); ++i) {
      const auto row =
          scores.logits.begin() + static_cast<std::ptrdiff_t>(i * static_cast<size_t>(vocab));
      engine::Sampler sampler(request.sampling, {});
      std::vector<float> logits(row, row + vocab);
      const engine::Sampled expected = sampler.sample(logits);
      EXPECT_EQ(generated.tokens[i].id, expected.id) << "chunk " << chunk << " token " << i;
      ASSERT_EQ(generated.tokens[i].top_logprobs.size(), expected.top_logprobs.size());
      for (size_t k = 0; k < expected.top_logprobs.size(); ++k) {
        EXPECT_NEAR(generated.tokens[i].top_logprobs[k].second, expected.top_logprobs[k].second,
                    1e-3);
      }
    }
  }
}

TEST_P(NanoGolden, ReferenceGreedyContinuationIsIdentical) {
  const auto engine =
      engine::make_engine(reference(), {.context_length = static_cast<int64_t>(ids_.size()) + 48,
                                        .max_running = 1,
                                        .prefill_budget = 511});
  EXPECT_EQ(engine::run(*engine, engine::greedy(ids_, 48)).ids, file_.ints("greedy"));
}

INSTANTIATE_TEST_SUITE_P(All, NanoGolden, testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

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

struct Limits {
  int equal;  // of 72 positions: argmax
  double kl;  // mean of a prompt's
  double prose;
};

void expect_close_to_goldens(TestModel& model, const std::string& isa, const Limits& limits) {
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
      equal += std::max_element(e.begin(), e.end()) - e.begin() ==
               std::max_element(a.begin(), a.end()) - a.begin();
      ++positions;
    }
    const std::string name = golden["name"];
    EXPECT_LE(kl, name == "prose" ? limits.prose : limits.kl) << name;
    testing::Test::RecordProperty("kl_" + name, std::to_string(kl));
    std::printf("%s %s: mean KL %.5f\n", isa.c_str(), name.c_str(), kl);
  }
  EXPECT_EQ(positions, 72);
  EXPECT_GE(equal, limits.equal);
  std::printf("%s: argmax equal at %d of %d positions\n", isa.c_str(), equal, positions);
}

class NanoProduction : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    ThreadPool probe(1);
    if (auto backend = make_test_backend(probe, GetParam()); !backend)
      GTEST_SKIP() << backend.error().message;
  }
};

TEST_P(NanoProduction, StaysCloseToTheGoldens) {
  TestModel model(nano_path(), GetParam());
  expect_close_to_goldens(model, GetParam(), {68, 0.01, 0.1});
}

TEST_P(NanoProduction, StaysCloseToTheGoldensWithFp8Latents) {
  TestModel model(nano_path(), GetParam(), 512, 2, 64, {}, false, DType::kF8E4M3);
  expect_close_to_goldens(model, GetParam(), {66, 0.025, 0.25});
}

INSTANTIATE_TEST_SUITE_P(All, NanoProduction,
                         testing::Values("generic", "avx2", "avx512", "avx512bf16", "amx", "cuda"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace longshore
