#include "checkpoint/safetensors.h"

#include <array>
#include <vector>

#include "tests/checkpoint/fixture.h"

namespace longshore {
namespace {

using testing::expect_error;

std::string make_file(const std::string& header, size_t data_bytes) {
  std::string file(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, '\1');
}

Result<std::vector<SafetensorsEntry>> parse(const std::string& file) {
  return parse_safetensors(std::as_bytes(std::span(file)), static_cast<int64_t>(file.size()),
                           "f.st");
}

struct Broken {
  const char* header;
  size_t data_bytes;
  const char* word;
};

TEST(Safetensors, RefusesEveryBrokenHeaderInOneLine) {
  const std::vector<Broken> cases = {
      {"[]", 0, "not a JSON object"},
      {"", 0, "not a JSON object"},
      {"{", 0, "not valid JSON"},
      {R"({"a":1})", 0, "tensor a"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "tensor a"},
      {R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", 4, "tensor a"},
      {R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", 8, "dtype F64"},
      {R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", 1, "dtype BOOL"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "shape"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "need 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4,
       "too many"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "begin <= end"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}})", 8, "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", 4, "data_offsets"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 3, "truncated"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "belong to no tensor"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}})",
       6, "b overlaps tensor a"},
      {R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"U8","shape":[4],"data_offsets":[6,10]}})",
       10, "2 bytes before tensor b"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
       R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
       1, "'a' occurs twice"},
      {R"({"__metadata__":{"a":1}})", 0, "__metadata__"},
      {R"({"x\ny":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", 8, "x?y"},
  };
  for (const Broken& broken : cases) {
    SCOPED_TRACE(broken.header);
    expect_error(parse(make_file(broken.header, broken.data_bytes)), ErrorKind::kModel,
                 {"f.st: ", broken.word});
  }
}

TEST(Safetensors, RefusesHeaderLengthsThatDoNotFit) {
  std::string file = make_file("{}", 0);
  file[3] = 1;
  expect_error(parse(file), ErrorKind::kModel, {"f.st", "does not fit", "download"});
  file[7] = '\xff';
  expect_error(parse(file), ErrorKind::kModel, {"does not fit"});
  expect_error(parse("1234567"), ErrorKind::kModel, {"too few"});
  expect_error(parse(""), ErrorKind::kModel, {"too few"});
}

TEST(Safetensors, RefusesDeepNestingWithoutDeepRecursion) {
  const std::string header = R"({"a":)" + std::string(1'000'000, '[');
  expect_error(parse(make_file(header, 0)), ErrorKind::kModel, {"nested"});
}

TEST(Safetensors, WriterAndParserAgree) {
  const std::array<float, 6> floats = {1, 2, 3, 4, 5, 6};
  const std::array<uint8_t, 3> bytes = {7, 8, 9};
  const std::vector<SafetensorsTensor> tensors = {
      {"bytes", DType::kU8, {3}, std::as_bytes(std::span(bytes))},
      {"floats", DType::kF32, {2, 3}, std::as_bytes(std::span(floats))},
      {"none", DType::kBF16, {0, 4}, {}},
  };
  const testing::TempDir dir;
  const std::string path = dir.file("x.safetensors");
  ASSERT_TRUE(write_safetensors(path, tensors));
  const std::string file = testing::slurp(path);
  const auto entries = parse(file);
  ASSERT_TRUE(entries) << entries.error().message;
  ASSERT_EQ(entries->size(), 3U);
  EXPECT_EQ((*entries)[0].name, "floats");
  EXPECT_EQ((*entries)[0].shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ((*entries)[0].begin % 8, 0);
  EXPECT_EQ(std::memcmp(file.data() + (*entries)[0].begin, floats.data(), sizeof(floats)), 0);
  EXPECT_EQ((*entries)[1].name, "none");
  EXPECT_EQ((*entries)[2].name, "bytes");
  EXPECT_EQ(std::memcmp(file.data() + (*entries)[2].begin, bytes.data(), 3), 0);
  using Files = std::filesystem::directory_iterator;
  EXPECT_EQ(std::distance(Files(dir.path()), Files()), 1) << "nothing unfinished is left";
}

TEST(Safetensors, WriterReportsThePathThatItCannotWrite) {
  expect_error(write_safetensors("/nonexistent/x.safetensors", {}), ErrorKind::kIo,
               {"/nonexistent/x.safetensors", "No such file"});
}

}  // namespace
}  // namespace longshore
