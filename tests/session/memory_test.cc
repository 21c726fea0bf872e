// What a model takes of memory: its weights once.
#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "kernels/backend.h"
#include "session/loaded_model.h"
#include "tests/paths.h"

namespace longshore::session {
namespace {

const std::string kNano = longshore::source_dir() + "/models/glm-nano";

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// Anonymous memory of this process, in bytes: neither mapped files nor what was never touched.
int64_t anonymous_bytes() {
  std::ifstream stream("/proc/self/status");
  for (std::string line; std::getline(stream, line);) {
    if (line.starts_with("RssAnon:")) return std::stoll(line.substr(8)) * 1024;
  }
  return -1;
}

TEST(Memory, AModelOnDiskIsNotCopied) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory hides the answer";
  const int64_t before = anonymous_bytes();
  ASSERT_GT(before, 0);
  LoadOptions options;
  options.model = kNano;
  options.context_length = 256;
  options.chunk = 64;
  options.threads = 1;
  options.with_text = false;
  const auto loaded = LoadedModel::load(
      options, [](int64_t, int64_t) {}, CancelToken());
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_LT(anonymous_bytes() - before, (*loaded)->checkpoint->total_bytes() / 2)
      << "of " << (*loaded)->checkpoint->total_bytes();
}

TEST(Memory, GeneratedWeightsAreHeldOnce) {
  if (kSanitized) GTEST_SKIP() << "a sanitizer's own memory hides the answer";
  const auto config = load_config(kNano);
  ASSERT_TRUE(config) << config.error().message;
  const int64_t before = anonymous_bytes();
  const auto checkpoint = Checkpoint::synthetic_from_config(
      *config, "nano", 1, 1, one_node({0}), [](int64_t, int64_t) {}, CancelToken());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const int64_t total = checkpoint->total_bytes();
  const int64_t generated = anonymous_bytes();
  EXPECT_GE(generated - before, total * 9 / 10) << "this test sees the weights";
  ThreadPool pool(1);
  auto backend = kernels::make_cpu_backend(pool, "auto");
  ASSERT_TRUE(backend) << backend.error().message;
  const auto model = model::Model::create(*checkpoint, **backend, {.tokens = 64});
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_LT(anonymous_bytes() - generated, total / 2) << "of " << total;
}

}  // namespace
}  // namespace longshore::session
