// The house rules as tests: who may include whom, and how long a file may grow.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/paths.h"

namespace {

namespace fs = std::filesystem;

// Each room of src/ and the rooms that it may include, itself aside (docs/ARCHITECTURE.md). bench/
// lies beside src/.
const std::map<std::string, std::set<std::string>>& allowed() {
  static const std::map<std::string, std::set<std::string>> table = {
      {"base", {}},
      {"device", {"base"}},
      {"checkpoint", {"base"}},
      {"kernels", {"base", "device"}},
      {"offload", {"base", "device", "kernels", "checkpoint"}},
      {"model", {"base", "device", "kernels", "checkpoint", "offload"}},
      {"engine", {"base", "device", "kernels", "checkpoint", "offload", "model"}},
      {"text", {"base"}},
      {"session",
       {"base", "device", "kernels", "checkpoint", "offload", "model", "engine", "text"}},
      {"server",
       {"base", "device", "kernels", "checkpoint", "offload", "model", "engine", "text",
        "session"}},
      {"bench",
       {"base", "device", "kernels", "checkpoint", "offload", "model", "engine", "text",
        "session"}},
      {"cli",
       {"base", "device", "kernels", "checkpoint", "offload", "model", "engine", "text", "session",
        "server", "bench"}},
  };
  return table;
}

struct SourceFile {
  std::string path;  // from the project's root
  std::string room;
  std::vector<std::string> lines;
};

std::vector<SourceFile> sources() {
  const fs::path root = longshore::source_dir();
  std::vector<SourceFile> files;
  const auto add = [&](const fs::path& folder, const std::string& fixed_room) {
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".h" && extension != ".cc" && extension != ".cu" && extension != ".cuh")
        continue;
      SourceFile file;
      file.path = fs::relative(entry.path(), root);
      file.room =
          fixed_room.empty() ? fs::relative(entry.path(), folder).begin()->string() : fixed_room;
      std::ifstream stream(entry.path());
      for (std::string line; std::getline(stream, line);) file.lines.push_back(line);
      files.push_back(std::move(file));
    }
  };
  add(root / "src", "");
  add(root / "bench", "bench");
  return files;
}

// What an include line includes, or nothing: "base/check.h", "<vector>".
std::string included(const std::string& line) {
  const size_t hash = line.find_first_not_of(" \t");
  if (hash == std::string::npos || line[hash] != '#') return "";
  const size_t keyword = line.find_first_not_of(" \t", hash + 1);
  if (keyword == std::string::npos || line.compare(keyword, 7, "include") != 0) return "";
  const size_t open = line.find_first_of("\"<", keyword);
  if (open == std::string::npos) return "";
  const bool angle = line[open] == '<';
  const size_t close = line.find(angle ? '>' : '"', open + 1);
  return angle ? line.substr(open, close - open + 1) : line.substr(open + 1, close - open - 1);
}

// The room that a file of `room` must not include and this line does; empty where all is well.
std::string forbidden_include(const std::string& room, const std::string& line) {
  const std::string path = included(line);
  const size_t slash = path.find('/');
  if (path.empty() || path.front() == '<' || slash == std::string::npos) return "";
  const std::string target = path.substr(0, slash);
  return target == room || allowed().at(room).contains(target) ? "" : target;
}

TEST(Lint, IncludesGoDownwardOnly) {
  size_t seen = 0;
  for (const SourceFile& file : sources()) {
    ASSERT_TRUE(allowed().contains(file.room))
        << file.path << ": a room that docs/ARCHITECTURE.md does not know";
    for (const std::string& line : file.lines) {
      EXPECT_EQ(forbidden_include(file.room, line), "") << file.path << ": " << line;
      seen += line.starts_with("#include \"") ? 1 : 0;
    }
  }
  EXPECT_GT(seen, 100U);
}

TEST(Lint, TheIncludeRuleCatchesABreach) {
  EXPECT_EQ(forbidden_include("text", "#include \"engine/sampler.h\""), "engine");
  EXPECT_EQ(forbidden_include("checkpoint", "#include \"kernels/backend.h\""), "kernels");
  EXPECT_EQ(forbidden_include("base", "#include \"device/buffer.h\""), "device");
  EXPECT_EQ(forbidden_include("engine", "#include \"model/model.h\""), "");
}

TEST(Lint, CudaHeadersStayInDeviceAndKernels) {
  for (const SourceFile& file : sources()) {
    if (file.room == "device" || file.path.starts_with("src/kernels/cuda/")) continue;
    for (const std::string& line : file.lines) {
      for (const char* library : {"cuda", "<cuda", "cublas", "<cublas", "nccl", "<nccl"}) {
        EXPECT_FALSE(included(line).starts_with(library)) << file.path << ": " << line;
      }
    }
  }
}

// src/device/cuda/kernels.h says why.
TEST(Lint, FilesWithKernelsHaveThemLoadedAtStart) {
  size_t seen = 0;
  for (const SourceFile& file : sources()) {
    if (!file.path.ends_with(".cu") || file.room == "bench") continue;
    const auto has = [&](const std::string& text) {
      return std::any_of(file.lines.begin(), file.lines.end(), [&](const std::string& line) {
        return line.find(text) != std::string::npos;
      });
    };
    if (!has("__global__")) continue;
    EXPECT_TRUE(has("LS_LOAD_AT_START(")) << file.path;
    ++seen;
  }
  EXPECT_GT(seen, 20U);
}

// src/kernels/cuda/common/launch.cuh says why: one that ends without having waited lets later ones
// run before what they read is there.
TEST(Lint, KernelsBeginByAwaitingEarlierOnes) {
  size_t seen = 0;
  for (const SourceFile& file : sources()) {
    if (file.room != "kernels" || file.path.find(".cu") == std::string::npos) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      EXPECT_EQ(file.lines[i].find("<<<"), std::string::npos)
          << file.path << ":" << i + 1 << " is a launch that launch_kernel() does not know of";
      if (file.lines[i].find("__global__") == std::string::npos) continue;
      while (i < file.lines.size() && !file.lines[i].ends_with("{")) ++i;
      ASSERT_LT(i + 1, file.lines.size()) << file.path;
      const std::string& first = file.lines[i + 1];
      EXPECT_TRUE(first == "  begin_kernel();" || first == "  begin_early_kernel();")
          << file.path << ":" << i + 2 << ": " << first;
      ++seen;
      if (first == "  begin_kernel();") continue;
      const auto awaits = [](const std::string& line) {
        return line.find("await_earlier_kernels();") != std::string::npos ||
               line.find("/*kWeightsFirst=*/true") != std::string::npos;
      };
      EXPECT_TRUE(std::any_of(file.lines.begin(), file.lines.end(), awaits)) << file.path;
    }
  }
  EXPECT_GT(seen, 40U);
}

TEST(Lint, FilesStayShort) {
  for (const SourceFile& file : sources()) {
    const size_t limit = file.room == "kernels" ? 1000 : 600;
    EXPECT_LE(file.lines.size(), limit) << file.path << " is probably two files";
  }
}

TEST(Lint, HeadersAreGuardedAndSayWhatTheyAreFor) {
  for (const SourceFile& file : sources()) {
    if (!file.path.ends_with(".h")) continue;
    ASSERT_FALSE(file.lines.empty()) << file.path;
    EXPECT_TRUE(file.lines.front().starts_with("// "))
        << file.path << ": the first line says the purpose";
    bool guarded = false;
    for (const std::string& line : file.lines) guarded = guarded || line == "#pragma once";
    EXPECT_TRUE(guarded) << file.path;
  }
}

TEST(Lint, NoUnfinishedMarks) {
  for (const SourceFile& file : sources()) {
    for (const std::string& line : file.lines) {
      for (const char* mark : {"TODO", "FIXME", "XXX", "HACK"}) {
        EXPECT_EQ(line.find(mark), std::string::npos) << file.path << ": " << line;
      }
    }
  }
}

}  // namespace
