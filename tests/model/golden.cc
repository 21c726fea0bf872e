#include "tests/model/golden.h"

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

#include "checkpoint/safetensors.h"
#include "tests/paths.h"

namespace longshore {
namespace {

std::string read(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  LS_CHECK_MSG(stream.good(), "{}", path);
  std::stringstream text;
  text << stream.rdbuf();
  return text.str();
}

constexpr std::string_view kFake = "fake:";

}  // namespace

GoldenFile::GoldenFile(const std::string& path) : bytes_(read(path)) {
  const auto entries =
      parse_safetensors({reinterpret_cast<const std::byte*>(bytes_.data()), bytes_.size()},
                        static_cast<int64_t>(bytes_.size()), path);
  LS_CHECK_MSG(entries.has_value(), "{}", entries.error().message);
  for (const SafetensorsEntry& entry : *entries) {
    tensors_.push_back({entry.name, entry.dtype, entry.shape, entry.begin, entry.end});
  }
}

const GoldenFile::Tensor& GoldenFile::find(const std::string& name) const {
  for (const Tensor& tensor : tensors_) {
    if (tensor.name == name) return tensor;
  }
  LS_FAIL("no golden tensor {}", name);
}

bool GoldenFile::has(const std::string& name) const {
  for (const Tensor& tensor : tensors_) {
    if (tensor.name == name) return true;
  }
  return false;
}

std::vector<float> GoldenFile::floats(const std::string& name) const {
  const Tensor& tensor = find(name);
  LS_CHECK(tensor.dtype == DType::kF32);
  std::vector<float> values(static_cast<size_t>((tensor.end - tensor.begin) / 4));
  std::memcpy(values.data(), bytes_.data() + tensor.begin, values.size() * 4);
  return values;
}

std::vector<int32_t> GoldenFile::ints(const std::string& name) const {
  const Tensor& tensor = find(name);
  LS_CHECK(tensor.dtype == DType::kI32);
  std::vector<int32_t> values(static_cast<size_t>((tensor.end - tensor.begin) / 4));
  std::memcpy(values.data(), bytes_.data() + tensor.begin, values.size() * 4);
  return values;
}

std::vector<int64_t> GoldenFile::shape(const std::string& name) const {
  return find(name).shape;
}

Result<std::unique_ptr<kernels::Backend>> make_test_backend(ThreadPool& pool,
                                                            const std::string& name) {
  if (name.starts_with(kFake)) {
    LS_TRY(auto inner, make_test_backend(pool, name.substr(kFake.size())));
    return std::make_unique<FakeDevice>(std::move(inner));
  }
  if (name == "reference") return kernels::make_reference_backend(pool);
  if (name == "cuda") return kernels::make_cuda_backend({});
  return kernels::make_cpu_backend(pool, name);
}

TestModel::TestModel(const std::string& dir, const std::string& backend_name,
                     int64_t max_step_tokens, int threads, int64_t max_sequences,
                     offload::StoreOptions offload, bool with_cpu, std::optional<DType> latents)
    : pool(threads), cpu_pool(threads) {
  auto opened = Checkpoint::open(dir);
  LS_CHECK_MSG(opened.has_value(), "{}", opened.error().message);
  checkpoint = std::make_unique<Checkpoint>(std::move(*opened));
  auto made = make_test_backend(pool, backend_name);
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  backend = std::move(*made);
  fake = dynamic_cast<FakeDevice*>(backend.get());
  const model::StepLimits limits{.tokens = max_step_tokens, .sequences = max_sequences};
  if (with_cpu) {
    const std::string host = fake != nullptr ? backend_name.substr(kFake.size()) : "auto";
    auto made_cpu = make_test_backend(cpu_pool, host);
    LS_CHECK_MSG(made_cpu.has_value(), "{}", made_cpu.error().message);
    cpu = std::move(*made_cpu);
    offload.cpu = cpu.get();
  }
  auto main = model::Model::create(*checkpoint, *backend, limits, offload);
  LS_CHECK_MSG(main.has_value(), "{}", main.error().message);
  model = std::make_unique<model::Model>(std::move(*main));
  auto draft = model::Mtp::create(*checkpoint, *model, *backend, limits, offload);
  LS_CHECK_MSG(draft.has_value(), "{}", draft.error().message);
  mtp = std::make_unique<model::Mtp>(std::move(*draft));
  layout = model::KvLayout::of(checkpoint->config(), *backend, /*with_mtp=*/true, latents);
}

engine::Scores TestModel::score(std::span<const int32_t> ids, int64_t last, int64_t chunk,
                                bool with_mtp, model::Observer* observer) {
  const CancelToken cancel;
  auto scores = engine::score(*model, layout,
                              {.ids = ids,
                               .last = last,
                               .chunk = chunk,
                               .mtp = with_mtp ? mtp.get() : nullptr,
                               .observer = observer},
                              cancel);
  LS_CHECK_MSG(scores.has_value(), "{}", scores.error().message);
  return std::move(*scores);
}

double relative_error(std::span<const float> actual, std::span<const float> expected) {
  LS_CHECK_MSG(actual.size() == expected.size(), "{} against {} values", actual.size(),
               expected.size());
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (!std::isfinite(actual[i]) || !std::isfinite(expected[i]))
      return std::numeric_limits<double>::infinity();
    const double d = static_cast<double>(actual[i]) - expected[i];
    difference += d * d;
    norm += static_cast<double>(expected[i]) * expected[i];
  }
  return std::sqrt(difference / norm);
}

std::string data_path(const std::string& below_tests_data) {
  return longshore::source_dir() + "/tests/data/" + below_tests_data;
}

std::string nano_path() {
  return longshore::source_dir() + "/models/glm-nano";
}

}  // namespace longshore
