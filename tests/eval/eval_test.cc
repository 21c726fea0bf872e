// The bundled model's accuracy on the 240 public tasks, by the command that a user runs.
#include <cstdio>
#include <fstream>
#include <map>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/paths.h"

namespace {

using nlohmann::json;

std::string output_of(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  std::string out;
  char buffer[4096];
  for (size_t n = fread(buffer, 1, sizeof(buffer), pipe); n > 0;
       n = fread(buffer, 1, sizeof(buffer), pipe)) {
    out.append(buffer, n);
  }
  EXPECT_EQ(pclose(pipe), 0);
  return out;
}

// What the reference PyTorch model got right in fp32.
std::map<std::string, int> recorded(const std::string& path) {
  std::map<std::string, int> correct;
  const json file = json::parse(std::ifstream(path));
  for (const json& item : file["items"]) {
    correct[item["task"].get<std::string>()] += item["ok"].get<bool>() ? 1 : 0;
  }
  return correct;
}

TEST(Eval, ProductionAccuracyIsTheRecordedOne) {
  const std::string root = longshore::source_dir();
  const std::string out =
      output_of(longshore::binary_dir() + "/longshore eval --json " + root + "/models/glm-nano " +
                root + "/tests/data/eval/tasks-public.jsonl");
  const json result = json::parse(out, nullptr, false);
  ASSERT_TRUE(result.is_object()) << out;
  EXPECT_EQ(result["total"]["n"], 240);
  EXPECT_GE(result["total"]["correct"], 238);
  const std::map<std::string, int> expected =
      recorded(root + "/tests/data/eval/accuracy-public.json");
  EXPECT_EQ(result["tasks"].size(), expected.size());
  for (const auto& [task, correct] : expected) {
    EXPECT_GE(result["tasks"][task]["correct"].get<int>(), correct - 1) << task;
  }
}

}  // namespace
