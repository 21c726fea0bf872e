// A loaded model on a device: refused before it is given anything where it does not fit, the same
// text as on the host, and an error with the device's message when it fails.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "session/completion.h"
#include "tests/model/fake_device.h"
#include "tests/paths.h"

namespace longshore::session {
namespace {

using testing::HasSubstr;

// device: receives the backend, which the loaded model owns.
Result<std::unique_ptr<LoadedModel>> load(FakeDevice** device, int64_t capacity = int64_t{1} << 32,
                                          bool concurrent = true) {
  LoadOptions options;
  if (!concurrent) options.gpu_expert_gib = 0;
  options.model = longshore::source_dir() + "/models/glm-nano";
  options.threads = 1;
  options.context_length = 256;
  options.chunk = 64;
  options.max_running = 4;
  options.max_total_tokens = 1024;
  if (device != nullptr) {
    options.backend = [=](ThreadPool& pool) -> std::unique_ptr<kernels::Backend> {
      auto inner = kernels::make_cpu_backend(pool, "generic");
      LS_CHECK(inner.has_value());
      auto made = std::make_unique<FakeDevice>(std::move(*inner), capacity);
      made->concurrent_ = concurrent;
      *device = made.get();
      return made;
    };
  } else {
    options.cpu_isa = "generic";
  }
  return LoadedModel::load(
      options, [](int64_t, int64_t) {}, CancelToken());
}

CompletionRequest request_of(const LoadedModel& loaded) {
  CompletionRequest request;
  const auto ids = loaded.tokenizer->encode("What is 7 plus 9?");
  LS_CHECK(ids.has_value());
  request.generation.prompt = *ids;
  request.generation.sampling.temperature = 0;
  request.generation.ignore_stop_ids = true;
  request.generation.max_tokens = 12;
  return request;
}

TEST(DeviceSession, GivesTheHostsTextWithoutAnUpload) {
  FakeDevice* device = nullptr;
  const auto host = load(nullptr);
  const auto loaded = load(&device);
  ASSERT_TRUE(host && loaded) << loaded.error().message;
  const int64_t uploads = device->memory().uploads;
  const auto expected = complete(**host, request_of(**host), {}, CancelToken());
  const auto actual = complete(**loaded, request_of(**loaded), {}, CancelToken());
  ASSERT_TRUE(expected && actual) << actual.error().message;
  EXPECT_EQ(expected->ids, actual->ids);
  EXPECT_EQ(expected->text, actual->text);
  EXPECT_EQ(device->memory().uploads, uploads);
}

TEST(NodeSession, GivesTheSameTextWithWeightsPlacedOnTwoNodes) {
  LoadOptions options;
  options.model = longshore::source_dir() + "/models/glm-nano";
  options.threads = 3;
  options.context_length = 256;
  options.chunk = 64;
  options.cpu_isa = "generic";
  options.topology = Topology{{{0}, {1}}};
  const auto placed = LoadedModel::load(options, {}, CancelToken());
  options.numa = false;
  const auto whole = LoadedModel::load(options, {}, CancelToken());
  ASSERT_TRUE(placed && whole);
  EXPECT_EQ((*placed)->pool->nodes(), 2);
  EXPECT_EQ((*whole)->pool->nodes(), 1);
  const auto expected = complete(**whole, request_of(**whole), {}, CancelToken());
  const auto actual = complete(**placed, request_of(**placed), {}, CancelToken());
  ASSERT_TRUE(expected && actual);
  EXPECT_EQ(expected->ids, actual->ids);
}

TEST(DeviceSession, AModelThatDoesNotFitIsRefusedWithTheNumbers) {
  FakeDevice* device = nullptr;
  const auto refused = load(&device, int64_t{16} << 20);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kMemory);
  EXPECT_THAT(refused.error().message, HasSubstr("0.02 GB are free"));
  EXPECT_THAT(refused.error().message, HasSubstr("--device cpu"));
}

TEST(DeviceSession, SaysWhyItsStepsAreNotCaptured) {
  FakeDevice* device = nullptr;
  const auto loaded = load(&device, int64_t{1} << 32, /*concurrent=*/false);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(device->live_graphs(), 0U);
  EXPECT_THAT((*loaded)->notes, testing::Contains(HasSubstr("CUDA_LAUNCH_BLOCKING")));
  const auto other = load(&device);
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_GT(device->live_graphs(), 0U);
  EXPECT_THAT((*other)->notes, testing::Not(testing::Contains(HasSubstr("not captured"))));
}

TEST(DeviceSession, AFaultIsTheCompletionsErrorAndEveryLaterOnes) {
  FakeDevice* device = nullptr;
  const auto loaded = load(&device);
  ASSERT_TRUE(loaded) << loaded.error().message;
  device->fail_at(400);
  for (int i = 0; i < 2; ++i) {
    const auto failed = complete(**loaded, request_of(**loaded), {}, CancelToken());
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().kind, ErrorKind::kDevice);
    EXPECT_THAT(failed.error().message, HasSubstr("told to fail"));
  }
  (*loaded)->engine->check_conservation();
}

TEST(DeviceNames, AreCpuCudaAndAuto) {
  EXPECT_EQ(cuda_ordinal("cpu").value(), std::nullopt);
  EXPECT_EQ(cuda_ordinal("auto").value(), std::nullopt);
  EXPECT_EQ(cuda_ordinal("cuda").value(), 0);
  EXPECT_EQ(cuda_ordinal("cuda:3").value(), 3);
  for (const char* bad : {"", "gpu", "cuda:", "cuda:-1", "cuda:1 ", "CUDA", "cuda:99999999999"}) {
    const auto refused = cuda_ordinal(bad);
    ASSERT_FALSE(refused) << bad;
    EXPECT_EQ(refused.error().kind, ErrorKind::kUsage);
  }
}

}  // namespace
}  // namespace longshore::session
