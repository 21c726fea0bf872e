#include <cmath>
#include <set>

#include "base/memory.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/layout.h"
#include "tests/checkpoint/fixture.h"

namespace longshore {
namespace {

using testing::expect_error;

GlmConfig small_config() {
  auto config = load_config(testing::conformance("conf-fp8"));
  EXPECT_TRUE(config);
  return *config;
}

Result<Checkpoint> make(uint64_t seed, int threads) {
  return Checkpoint::synthetic_from_config(small_config(), "small", seed, threads, one_node({0}),
                                           {}, CancelToken());
}

// Source: the E4M3 format of "FP8 Formats for Deep Learning" (Micikevicius et al., 2022).
double e4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const int fraction = code & 7;
  const double magnitude =
      exponent == 0 ? fraction / 512.0 : (1 + fraction / 8.0) * std::exp2(exponent - 7);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

TEST(Synthetic, HoldsWhatTheConfigDemandsAndNothingElse) {
  const auto checkpoint = make(1, 2);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const auto verification = checkpoint->verify({}, CancelToken());
  ASSERT_TRUE(verification);
  EXPECT_THAT(verification->problems, ::testing::IsEmpty());
  EXPECT_THAT(verification->unused, ::testing::IsEmpty());
  EXPECT_TRUE(checkpoint->prefault(1, {}, CancelToken()));
}

TEST(Synthetic, VerifyReadsToTheLastElementOfLargeTensors) {
  GlmConfig config = small_config();
  config.vocab_size = 100'000;
  const auto checkpoint =
      Checkpoint::synthetic_from_config(config, "large", 1, 2, one_node({0}), {}, CancelToken());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const TensorInfo* head = checkpoint->find("lm_head.weight");
  ASSERT_EQ(head->bytes, 100'000 * 128 * 2);
  // Generated memory is writable.
  const uint16_t nan = 0x7FC0;
  std::memcpy(const_cast<std::byte*>(head->data) + head->bytes - 2, &nan, 2);
  const auto verification = checkpoint->verify({}, CancelToken());
  ASSERT_TRUE(verification);
  EXPECT_THAT(verification->problems, ::testing::ElementsAre(::testing::HasSubstr(
                                          "lm_head.weight: element [99999, 127] is not finite")));
}

TEST(Synthetic, UsesTheDtypesOfTheHubCheckpoint) {
  const auto checkpoint = make(1, 2);
  const auto real = Checkpoint::open(testing::conformance("conf-fp8"));
  ASSERT_TRUE(checkpoint && real);
  ASSERT_EQ(checkpoint->tensors().size(), real->tensors().size());
  for (const TensorInfo& tensor : real->tensors()) {
    const TensorInfo* made = checkpoint->find(tensor.name);
    ASSERT_NE(made, nullptr) << tensor.name;
    EXPECT_EQ(made->dtype, tensor.dtype) << tensor.name;
    EXPECT_EQ(made->shape, tensor.shape) << tensor.name;
  }
}

TEST(Synthetic, DependsOnTheSeedAndNotOnTheThreads) {
  const auto a = make(7, 1);
  const auto b = make(7, 3);
  const auto c = make(8, 1);
  ASSERT_TRUE(a && b && c);
  for (size_t i = 0; i < a->tensors().size(); ++i) {
    const TensorInfo& tensor = a->tensors()[i];
    const auto bytes = static_cast<size_t>(tensor.bytes);
    EXPECT_EQ(std::memcmp(tensor.data, b->tensors()[i].data, bytes), 0) << tensor.name;
    EXPECT_NE(std::memcmp(tensor.data, c->tensors()[i].data, bytes), 0) << tensor.name;
  }
}

TEST(Synthetic, WeightsKeepTheSizeOfActivations) {
  const auto checkpoint = make(3, 2);
  ASSERT_TRUE(checkpoint);
  const auto weight = checkpoint->weight("model.layers.0.self_attn.q_b_proj.weight", 384, 192);
  ASSERT_TRUE(weight) << weight.error().message;
  double squares = 0;
  std::set<uint8_t> codes;
  for (int64_t o = 0; o < weight->out; ++o) {
    for (int64_t i = 0; i < weight->in; ++i) {
      const auto code = std::to_integer<uint8_t>(weight->row(o)[i]);
      codes.insert(code);
      squares += std::pow(e4m3(code) * weight->scale[o / 128 * weight->scale_stride + i / 128], 2);
    }
  }
  EXPECT_EQ(codes.size(), 254U);
  const double deviation = std::sqrt(squares / static_cast<double>(weight->out * weight->in));
  EXPECT_NEAR(deviation * std::sqrt(192.0), 1.0, 0.3);
}

TEST(Synthetic, RefusesSpecificationsThatItDoesNotUnderstand) {
  for (const char* text :
       {"", "glm-5.1", "glm-5.1:", "glm-5.1:dense=1", "glm-5.1:moe=1", "glm-5.1:dense=0,moe=0",
        "glm-5.1:dense=1,moe=1,", "glm-5.1:dense=1,moe=1,mtp=2", "glm-5.1:dense=-1,moe=2",
        "glm-5.1:dense=1,dense=1,moe=1", "glm-5.1:dense=,moe=1", "glm-5.1:dense=1x,moe=1",
        "glm-5.2:dense=1,moe=1", "glm-5.1:dense=99999999999999999999,moe=1",
        "glm-5.1:dense=1,x=1"}) {
    SCOPED_TRACE(text);
    expect_error(Checkpoint::synthetic(text, 1, 1, one_node({0}), {}, CancelToken()),
                 ErrorKind::kUsage, {"dense=D,moe=M"});
  }
}

TEST(Synthetic, RefusesMoreThanTheMemoryBeforeTakingIt) {
  expect_error(
      Checkpoint::synthetic("glm-5.1:dense=3,moe=1000", 1, 1, one_node({0}), {}, CancelToken()),
      ErrorKind::kMemory, {"GB", "fewer layers"});
}

TEST(Synthetic, CanBeCancelled) {
  CancelToken cancel;
  cancel.cancel();
  expect_error(
      Checkpoint::synthetic_from_config(small_config(), "small", 1, 1, one_node({0}), {}, cancel),
      ErrorKind::kCancelled, {});
}

}  // namespace
}  // namespace longshore
