// The conformance checkpoints (random weights, odd sizes, every tensor of every layer) against
// transformers.
#include <cmath>
#include <set>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/model/golden.h"
#include "tests/model/recorder.h"

namespace longshore {
namespace {

class Conformance : public testing::TestWithParam<const char*> {
 protected:
  Conformance()
      : golden_(data_path(std::string("goldens/") + GetParam() + "/golden.safetensors")),
        ids_(golden_.ints("input_ids")),
        dir_(data_path(std::string("conformance/") + GetParam())) {}

  GoldenFile golden_;
  std::vector<int32_t> ids_;
  std::string dir_;
};

std::vector<int32_t> sorted(const int32_t* ids, int64_t count) {
  std::vector<int32_t> row(ids, ids + count);
  std::sort(row.begin(), row.end());
  return row;
}

TEST_P(Conformance, EveryHiddenStateAndLogitMatches) {
  TestModel model(dir_, "reference");
  Recorder recorder(40, true);
  const engine::Scores scores = model.score(ids_, -1, 40, true, &recorder);
  const auto& config = model.checkpoint->config();
  const std::vector<float> hidden = golden_.floats("hidden_states");
  const auto layer_size = static_cast<size_t>(40 * config.hidden_size);
  for (int64_t layer = -1; layer < config.num_layers; ++layer) {
    const std::span expected =
        std::span(hidden).subspan(static_cast<size_t>(layer + 1) * layer_size, layer_size);
    EXPECT_LT(relative_error(recorder.hidden[layer], expected), 1e-4) << "layer " << layer;
  }
  EXPECT_LT(relative_error(scores.hidden, golden_.floats("final_hidden")), 1e-4);
  EXPECT_LT(relative_error(scores.logits, golden_.floats("logits")), 1e-4);
  const std::span mtp_logits =
      std::span(scores.mtp_logits).first(static_cast<size_t>(39 * config.vocab_size));
  const std::span mtp_hidden =
      std::span(scores.mtp_hidden).first(static_cast<size_t>(39 * config.hidden_size));
  EXPECT_LT(relative_error(mtp_logits, golden_.floats("mtp_logits")), 1e-4);
  EXPECT_LT(relative_error(mtp_hidden, golden_.floats("mtp_hidden")), 1e-4);
}

TEST_P(Conformance, ChosenPositionsAndExpertsAreTheSame) {
  TestModel model(dir_, "reference");
  Recorder recorder(40, true);
  (void)model.score(ids_, -1, 40, false, &recorder);
  const auto& config = model.checkpoint->config();
  int full_layers = 0;
  int moe_layers = 0;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string suffix = "_L" + std::to_string(layer);
    EXPECT_EQ(golden_.has("index_topk" + suffix), recorder.selected.contains(layer));
    if (golden_.has("index_topk" + suffix)) {
      ++full_layers;
      const std::vector<int32_t> expected = golden_.ints("index_topk" + suffix);
      const std::vector<float> expected_scores = golden_.floats("index_scores" + suffix);
      for (int64_t t = 0; t < 40; ++t) {
        const int64_t k = config.index_top_k;
        EXPECT_EQ(sorted(&recorder.selected[layer][static_cast<size_t>(t * k)], k),
                  sorted(&expected[static_cast<size_t>(t * k)], k))
            << "layer " << layer << " position " << t;
        const auto row = static_cast<size_t>(t * 40);
        const auto visible = static_cast<size_t>(t + 1);
        EXPECT_LT(relative_error(std::span(recorder.scores[layer]).subspan(row, visible),
                                 std::span(expected_scores).subspan(row, visible)),
                  1e-4);
      }
    }
    if (!golden_.has("router_ids" + suffix)) continue;
    ++moe_layers;
    const std::vector<int32_t> ids = golden_.ints("router_ids" + suffix);
    const std::vector<float> weights = golden_.floats("router_weights" + suffix);
    const int64_t k = config.experts_per_token;
    for (int64_t t = 0; t < 40; ++t) {
      std::map<int32_t, float> expected;
      std::map<int32_t, float> actual;
      for (int64_t i = t * k; i < (t + 1) * k; ++i) {
        expected[ids[static_cast<size_t>(i)]] = weights[static_cast<size_t>(i)];
        actual[recorder.route_ids[layer][static_cast<size_t>(i)]] =
            recorder.route_weights[layer][static_cast<size_t>(i)];
      }
      ASSERT_EQ(actual.size(), expected.size());
      for (const auto& [id, weight] : expected) {
        ASSERT_TRUE(actual.contains(id)) << "layer " << layer << " position " << t;
        EXPECT_NEAR(actual[id], weight, 1e-4 * std::abs(weight));
      }
    }
  }
  EXPECT_GT(full_layers, 0);
  EXPECT_EQ(moe_layers, config.num_layers - config.first_k_dense);
}

TEST_P(Conformance, ChunkSizeDoesNotChangeTheOutput) {
  TestModel model(dir_, "reference");
  const engine::Scores whole = model.score(ids_, -1, 40, true);
  for (int64_t chunk : {1, 3, 7, 16, 39}) {
    const engine::Scores chunked = model.score(ids_, -1, chunk, true);
    EXPECT_LT(relative_error(chunked.logits, whole.logits), 1e-4) << chunk;
    EXPECT_LT(relative_error(chunked.mtp_logits, whole.mtp_logits), 1e-4) << chunk;
  }
}

// Production arithmetic on every tensor of every layer, odd sizes included. Random weights amplify
// rounding, and a near tie of the indexer or the router may fall the other way: most positions must
// agree closely, and none may be far off.
class ConformanceProduction : public testing::TestWithParam<std::tuple<const char*, const char*>> {
};

TEST_P(ConformanceProduction, StaysCloseToTheGoldens) {
  const auto [name, backend] = GetParam();
  ThreadPool probe(1);
  if (const auto made = make_test_backend(probe, backend); !made)
    GTEST_SKIP() << made.error().message;
  const GoldenFile golden(data_path(fmt::format("goldens/{}/golden.safetensors", name)));
  TestModel model(data_path(fmt::format("conformance/{}", name)), backend);
  const std::vector<int32_t> ids = golden.ints("input_ids");
  const auto vocab = static_cast<size_t>(model.checkpoint->config().vocab_size);
  for (const int64_t chunk : {40, 7, 1}) {
    const engine::Scores scores = model.score(ids, -1, chunk, true);
    const auto errors = [&](const std::vector<float>& actual, const std::vector<float>& expected) {
      std::vector<double> rows;
      for (size_t row = 0; row < expected.size() / vocab; ++row) {
        rows.push_back(relative_error(std::span(actual).subspan(row * vocab, vocab),
                                      std::span(expected).subspan(row * vocab, vocab)));
      }
      std::sort(rows.begin(), rows.end());
      return rows;
    };
    for (const auto& [actual, expected] :
         {std::pair{scores.logits, golden.floats("logits")},
          std::pair{scores.mtp_logits, golden.floats("mtp_logits")}}) {
      const std::vector<double> rows = errors(actual, expected);
      fmt::print("{} {} chunk {}: median {:.4f}, worst {:.4f}\n", name, backend, chunk,
                 rows[rows.size() / 2], rows.back());
      EXPECT_LT(rows[rows.size() / 2], 0.05);
      EXPECT_LT(rows.back(), 0.5);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ConformanceProduction,
                         testing::Combine(testing::Values("conf-bf16", "conf-indexshare",
                                                          "conf-fp8"),
                                          testing::Values("generic", "avx2", "cuda")),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name + "_" + std::get<1>(info.param);
                         });

INSTANTIATE_TEST_SUITE_P(All, Conformance,
                         testing::Values("conf-bf16", "conf-indexshare", "conf-fp8"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace longshore
