#include "checkpoint/checkpoint.h"

#include <limits>

#include "checkpoint/layout.h"
#include "tests/checkpoint/fixture.h"

namespace longshore {
namespace {

using testing::BrokenCheckpoint;
using testing::conformance;
using testing::expect_error;

constexpr const char* kNorm = "model.norm.weight";
constexpr const char* kLinear = "model.layers.0.mlp.gate_proj.weight";
constexpr const char* kScale = "model.layers.0.mlp.gate_proj.weight_scale_inv";
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Every tensor as a loader would ask for it; the first error.
Result<void> load_all(const std::string& dir) {
  LS_TRY(const Checkpoint checkpoint, Checkpoint::open(dir));
  for (const TensorSpec& spec : checkpoint_layout(checkpoint.config())) {
    if (spec.optional && checkpoint.find(spec.name) == nullptr) continue;
    if (spec.is_matrix()) {
      LS_TRY_VOID(checkpoint.weight(spec.name, spec.shape[0], spec.shape[1]));
    } else {
      LS_TRY_VOID(checkpoint.vector(spec.name, spec.shape[0]));
    }
  }
  return {};
}

// Loading fails, and verify() reports the same line.
void expect_broken(const BrokenCheckpoint& broken, const std::vector<std::string>& words) {
  const auto loaded = load_all(broken.dir.path());
  expect_error(loaded, ErrorKind::kModel, words);
  const auto checkpoint = Checkpoint::open(broken.dir.path());
  if (!checkpoint || loaded) return;
  const auto verification = checkpoint->verify({}, CancelToken());
  ASSERT_TRUE(verification);
  EXPECT_THAT(verification->problems, ::testing::ElementsAre(loaded.error().message));
}

TEST(Checkpoint, EveryFixtureOpensAndVerifiesClean) {
  for (const std::string& dir :
       {conformance("conf-bf16"), conformance("conf-fp8"), conformance("conf-indexshare"),
        testing::source("models/glm-nano")}) {
    SCOPED_TRACE(dir);
    const auto checkpoint = Checkpoint::open(dir);
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_TRUE(checkpoint->config().unknown_keys.empty());
    int64_t reported = 0;
    const auto verification =
        checkpoint->verify([&](int64_t done, int64_t) { reported = done; }, CancelToken());
    ASSERT_TRUE(verification) << verification.error().message;
    EXPECT_THAT(verification->problems, ::testing::IsEmpty());
    EXPECT_THAT(verification->unused, ::testing::IsEmpty());
    EXPECT_EQ(reported, checkpoint->total_bytes());
    const auto loaded = load_all(dir);
    EXPECT_TRUE(loaded) << loaded.error().message;
  }
  EXPECT_EQ(Checkpoint::open(testing::source("models/glm-nano"))->total_bytes(), 32'902'552);
}

TEST(Checkpoint, Fp8BlocksAreRaggedAtBothEdges) {
  const auto checkpoint = Checkpoint::open(conformance("conf-fp8"));
  ASSERT_TRUE(checkpoint);
  const auto tall =
      checkpoint->weight("model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 160, 128);
  ASSERT_TRUE(tall) << tall.error().message;
  EXPECT_EQ(tall->dtype, DType::kF8E4M3);
  EXPECT_EQ(tall->scale_stride, 1);
  const auto wide = checkpoint->weight("model.layers.0.self_attn.q_b_proj.weight", 384, 192);
  ASSERT_TRUE(wide);
  EXPECT_EQ(wide->scale_stride, 2);
  const auto plain = checkpoint->weight("lm_head.weight", 512, 128);
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->scale, nullptr);
}

TEST(Checkpoint, ScalesAtOddAddressesAreCopied) {
  BrokenCheckpoint moved("conf-fp8");
  const auto original = Checkpoint::open(conformance("conf-fp8"));
  for (size_t pad = 1; pad < 8; ++pad) {
    moved.save(pad);
    const auto checkpoint = Checkpoint::open(moved.dir.path());
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    const auto weight = checkpoint->weight(kLinear, 200, 128);
    ASSERT_TRUE(weight);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(weight->scale) % 4, 0U);
    EXPECT_EQ(weight->scale[1], original->weight(kLinear, 200, 128)->scale[1]);
    EXPECT_TRUE(checkpoint->verify({}, CancelToken())->problems.empty());
  }
}

TEST(Checkpoint, VectorsConvertEveryFloatingType) {
  BrokenCheckpoint half("conf-bf16");
  half.header[kNorm]["dtype"] = "F16";
  half.poke<uint16_t>(kNorm, 0, 0x3C00);  // 1
  half.poke<uint16_t>(kNorm, 1, 0xC100);  // -2.5
  half.poke<uint16_t>(kNorm, 2, 0x0001);  // the smallest subnormal
  for (size_t i = 3; i < 96; ++i) half.poke<uint16_t>(kNorm, i, 0);
  half.save();
  const auto values = Checkpoint::open(half.dir.path())->vector(kNorm, 96);
  ASSERT_TRUE(values) << values.error().message;
  EXPECT_EQ((*values)[0], 1.0F);
  EXPECT_EQ((*values)[1], -2.5F);
  EXPECT_EQ((*values)[2], 0x1p-24F);
}

TEST(Checkpoint, RefusesBrokenTensorsByName) {
  {
    BrokenCheckpoint broken("conf-bf16");
    broken.header[kNorm]["shape"] = {48, 2};
    broken.save();
    expect_broken(broken, {BrokenCheckpoint::kShard, kNorm, "[48, 2]", "[96]"});
  }
  {
    BrokenCheckpoint broken("conf-bf16");
    broken.header[kNorm]["dtype"] = "U8";
    broken.header[kNorm]["shape"] = {192};
    broken.save();
    expect_error(load_all(broken.dir.path()), ErrorKind::kModel, {kNorm, "[192]"});
  }
  {
    BrokenCheckpoint broken("conf-bf16");
    broken.header["model.layers.1.mlp.gate.e_score_correction_bias"]["dtype"] = "I32";
    broken.save();
    expect_broken(broken, {"e_score_correction_bias", "I32"});
  }
  {
    BrokenCheckpoint broken("conf-bf16");
    broken.remove(kNorm);
    broken.save();
    broken.edit_index([](nlohmann::json& map) { map.erase(kNorm); });
    expect_broken(broken, {kNorm, "missing", "download"});
  }
  {
    BrokenCheckpoint broken("conf-bf16");
    broken.poke<uint16_t>(kNorm, 5, 0x7F80);
    broken.save();
    expect_error(load_all(broken.dir.path()), ErrorKind::kModel, {kNorm, "element 5"});
  }
}

TEST(Checkpoint, RefusesBrokenScalesByName) {
  for (const float value : {kNaN, kInfinity, -kInfinity}) {
    BrokenCheckpoint broken("conf-fp8");
    broken.poke<float>(kScale, 1, value);
    broken.save();
    expect_broken(broken, {BrokenCheckpoint::kShard, kScale, "block [1, 0]", "download"});
  }
  {
    BrokenCheckpoint broken("conf-fp8");
    broken.header[kScale]["shape"] = {1, 2};
    broken.save();
    expect_broken(broken, {kScale, "[1, 2]", "[2, 1]"});
  }
  {
    BrokenCheckpoint broken("conf-fp8");
    broken.header[kScale]["dtype"] = "I32";
    broken.save();
    expect_broken(broken, {kScale, "I32"});
  }
  {
    BrokenCheckpoint broken("conf-fp8");
    broken.remove(kScale);
    broken.save();
    broken.edit_index([](nlohmann::json& map) { map.erase(kScale); });
    expect_broken(broken, {kLinear, kScale, "missing"});
  }
  {
    BrokenCheckpoint broken("conf-fp8");
    broken.header[std::string("lm_head.weight") + "_scale_inv"] = broken.header[kScale];
    broken.header.erase(kScale);
    broken.save();
    broken.edit_index([](nlohmann::json& map) { map.erase(kScale); });
    const auto checkpoint = Checkpoint::open(broken.dir.path());
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    expect_error(checkpoint->weight("lm_head.weight", 512, 128), ErrorKind::kModel,
                 {"lm_head.weight", "BF16", "scales"});
  }
}

TEST(Checkpoint, VerifyFindsNotFiniteWeightsAndUnusedTensors) {
  BrokenCheckpoint broken("conf-fp8");
  broken.poke<uint8_t>(kLinear, 128 * 3 + 7, 0xFF);
  broken.save();
  broken.edit_config("num_nextn_predict_layers", 0);
  const auto checkpoint = Checkpoint::open(broken.dir.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const auto verification = checkpoint->verify({}, CancelToken());
  ASSERT_TRUE(verification);
  ASSERT_EQ(verification->problems.size(), 1U);
  EXPECT_THAT(verification->problems[0], ::testing::HasSubstr(kLinear));
  EXPECT_THAT(verification->problems[0], ::testing::HasSubstr("[3, 7]"));
  EXPECT_THAT(verification->unused, ::testing::Contains("model.layers.3.eh_proj.weight"));
  EXPECT_THAT(verification->unused, ::testing::Each(::testing::StartsWith("model.layers.3.")));
}

TEST(Checkpoint, RefusesTruncatedShards) {
  const BrokenCheckpoint broken("conf-bf16");
  const std::string path = broken.dir.file(BrokenCheckpoint::kShard);
  const auto size = std::filesystem::file_size(path);
  for (const size_t left : {size - 1, size / 2, size_t{1000}, size_t{4}, size_t{0}}) {
    std::filesystem::resize_file(path, left);
    expect_error(Checkpoint::open(broken.dir.path()), ErrorKind::kModel,
                 {path, "truncated", "download"});
  }
}

TEST(Checkpoint, RefusesIndexesThatDoNotFitTheShards) {
  const auto expect_index = [](const char* shard, const std::vector<std::string>& words) {
    const BrokenCheckpoint broken("conf-bf16");
    broken.edit_index([&](nlohmann::json& map) { map[kNorm] = shard; });
    expect_error(Checkpoint::open(broken.dir.path()), ErrorKind::kModel, words);
  };
  expect_index("model-00002-of-00002.safetensors",
               {BrokenCheckpoint::kIndex, "model-00002-of-00002.safetensors", "absent"});
  expect_index("../model.safetensors", {BrokenCheckpoint::kIndex, kNorm, "../model.safetensors"});
  expect_index("/etc/passwd", {BrokenCheckpoint::kIndex, kNorm});
  expect_index("..", {BrokenCheckpoint::kIndex, kNorm});
  expect_index("", {BrokenCheckpoint::kIndex, kNorm});
  {
    const BrokenCheckpoint broken("conf-bf16");
    broken.edit_index([](nlohmann::json& map) { map["extra.weight"] = BrokenCheckpoint::kShard; });
    expect_error(Checkpoint::open(broken.dir.path()), ErrorKind::kModel,
                 {BrokenCheckpoint::kShard, "extra.weight", "missing"});
  }
  {
    const BrokenCheckpoint broken("conf-bf16");
    std::filesystem::copy(broken.dir.file(BrokenCheckpoint::kShard),
                          broken.dir.file("b.safetensors"));
    broken.edit_index([](nlohmann::json& map) { map[kNorm] = "b.safetensors"; });
    expect_error(Checkpoint::open(broken.dir.path()), ErrorKind::kModel,
                 {"b.safetensors", BrokenCheckpoint::kShard, "is also in"});
  }
  for (const char* text : {"[]", "{}", "{\"weight_map\": {}}", "{\"weight_map\": 3}", "x"}) {
    const BrokenCheckpoint broken("conf-bf16");
    testing::spit(broken.dir.file(BrokenCheckpoint::kIndex), text);
    expect_error(Checkpoint::open(broken.dir.path()), ErrorKind::kModel,
                 {BrokenCheckpoint::kIndex});
  }
}

TEST(Checkpoint, OpensASingleFileAndRefusesAnEmptyDirectory) {
  const BrokenCheckpoint single("conf-bf16");
  std::filesystem::remove(single.dir.file(BrokenCheckpoint::kIndex));
  expect_error(Checkpoint::open(single.dir.path()), ErrorKind::kModel, {"model.safetensors"});
  std::filesystem::rename(single.dir.file(BrokenCheckpoint::kShard),
                          single.dir.file("model.safetensors"));
  EXPECT_TRUE(load_all(single.dir.path()));
  expect_error(Checkpoint::open("/nonexistent"), ErrorKind::kModel, {"/nonexistent"});
}

TEST(Checkpoint, PrefaultReadsEverythingAndCanBeCancelled) {
  const auto checkpoint = Checkpoint::open(testing::source("models/glm-nano"));
  ASSERT_TRUE(checkpoint);
  int64_t done = 0;
  int64_t total = -1;
  ASSERT_TRUE(checkpoint->prefault(
      2, [&](int64_t d, int64_t t) { std::tie(done, total) = std::pair(d, t); }, CancelToken()));
  EXPECT_EQ(done, total);
  EXPECT_GE(total, checkpoint->total_bytes());
  CancelToken cancelled;
  cancelled.cancel();
  expect_error(checkpoint->prefault(2, {}, cancelled), ErrorKind::kCancelled, {});
  expect_error(checkpoint->verify({}, cancelled), ErrorKind::kCancelled, {});
}

TEST(Checkpoint, PrefaultReportsAFileThatShrank) {
  const BrokenCheckpoint broken("conf-bf16");
  const auto checkpoint = Checkpoint::open(broken.dir.path());
  ASSERT_TRUE(checkpoint);
  std::filesystem::resize_file(broken.dir.file(BrokenCheckpoint::kShard), 4096);
  expect_error(checkpoint->prefault(1, {}, CancelToken()), ErrorKind::kIo,
               {BrokenCheckpoint::kShard});
}

}  // namespace
}  // namespace longshore
