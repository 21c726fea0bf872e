// What the bench says of steps beside a prompt that streams, in the fake device's model of time.
#include <map>
#include <string>

#include <gtest/gtest.h>

#include "bench/offload_bench.h"
#include "tests/model/fake_device.h"
#include "tests/paths.h"

namespace longshore::bench {
namespace {

std::map<std::string, double> rows_of(const Report& report) {
  std::map<std::string, double> rows;
  for (const Row& row : report.rows) rows[row.name] = row.value;
  return rows;
}

TEST(OffloadBench, SaysWhatAStepBesideAPromptTakesAndWhatTheWireDoesMeanwhile) {
  session::LoadOptions options;
  options.model = longshore::source_dir() + "/models/glm-nano";
  options.cpu_isa = "generic";
  options.threads = 1;
  options.context_length = 2304;
  options.chunk = 128;
  options.max_running = 2;
  options.with_text = false;
  options.gpu_expert_gib = 0;
  FakeDevice* device = nullptr;
  options.backend = [&](ThreadPool& pool) {
    auto inner = kernels::make_cpu_backend(pool, "generic");
    LS_CHECK(inner.has_value());
    auto made = std::make_unique<FakeDevice>(std::move(*inner));
    device = made.get();
    return std::unique_ptr<kernels::Backend>(std::move(made));
  };
  const auto loaded = session::LoadedModel::load(
      options, [](int64_t, int64_t) {}, CancelToken());
  ASSERT_TRUE(loaded) << loaded.error().message;
  const auto bytes = static_cast<double>((*loaded)->model->experts().expert_bytes());
  device->set_times({.operation = [](const std::string&, int64_t) { return 1e-6; },
                     .copied_byte = 1e-3 / bytes,
                     .host_sum = 1e-3});
  OffloadBenchOptions chosen;
  chosen.decode = false;
  chosen.grouped = false;
  chosen.chunks = {100};
  chosen.beside = {1};
  chosen.rings = {4};
  const auto report = offload_bench(**loaded, chosen, CancelToken());
  ASSERT_TRUE(report) << report.error().message;
  const std::map<std::string, double> rows = rows_of(*report);
  const std::string name = "ring of 4, prompt of 100 beside 1 decoding, a step in every pause: ";
  for (const char* row : {"wire idle", "step beside: of a pass", "step beside: takes",
                          "step beside: CPU computing", "step beside: wire meanwhile"})
    EXPECT_TRUE(rows.contains(name + row)) << row;
  EXPECT_GE(rows.at(name + "step beside: of a pass"), 1);
  EXPECT_TRUE(rows.contains("wire beside both, of 4 tokens"));
}

}  // namespace
}  // namespace longshore::bench
