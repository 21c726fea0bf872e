// What /metrics says of a machine with a device: nothing else shows it without one.
#include "server/expert_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace longshore::server {
namespace {

using testing::HasSubstr;

TEST(ExpertMetrics, SayWhoHadTheExpertsAndWhatMoved) {
  offload::StoreReport report;
  report.counters.hits = 5;
  report.counters.fetched = 3;
  report.counters.computed_on_cpu = 2;
  report.counters.shared = 7;
  report.counters.prefetched = 11;
  report.counters.prefetched_unused = 4;
  report.counters.wire_bytes = 4096;
  report.counters.cpu_seconds = 0.5;
  report.counters.queueing_seconds = 0.25;
  report.slots_used_at_most = 9;
  report.wire_ceiling = 55e9;
  const std::string text = expert_metrics("m", report, 4, 3);
  for (
      const char* line :
      {R"(longshore:expert_lookups_total{model_name="m",placement="hit"} 5)",
       R"(longshore:expert_lookups_total{model_name="m",placement="shared"} 7)",
       R"(longshore:expert_prefetched_total{model_name="m"} 11)",
       R"(longshore:expert_prefetched_unused_total{model_name="m"} 4)",
       R"(longshore:expert_bytes_total{by="wire",model_name="m"} 4096)",
       R"(longshore:expert_busy_seconds_total{by="cpu",model_name="m"} 0.5)",
       R"(longshore:expert_host_seconds_total{model_name="m",part="queueing"} 0.25)",
       R"(longshore:expert_slots{model_name="m"} 9)",
       R"(longshore:expert_bytes_per_second{by="wire",kind="ceiling",model_name="m"} 55000000000)"})
    EXPECT_THAT(text, HasSubstr(line));
}

TEST(ExpertMetrics, SayWhatIsResidentByLayer) {
  offload::StoreReport report;
  report.resident = {1, 0, 0, 1, 1, 1, 1, 0};
  const std::string text = expert_metrics("m", report, 4, 3);
  EXPECT_THAT(text, HasSubstr(R"(longshore:expert_resident{layer="3",model_name="m"} 2)"));
  EXPECT_THAT(text, HasSubstr(R"(longshore:expert_resident{layer="4",model_name="m"} 3)"));
}

}  // namespace
}  // namespace longshore::server
