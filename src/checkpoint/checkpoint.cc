#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <tuple>
#include <utility>

#include "base/memory.h"
#include "checkpoint/bulk.h"
#include "checkpoint/impl.h"
#include "checkpoint/json.h"
#include "checkpoint/layout.h"
#include "checkpoint/numbers.h"

namespace longshore {
namespace {

constexpr int64_t kPrefaultPiece = int64_t{16} << 20;

std::string show_shape(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// "model-00001.safetensors: tensor model.norm.weight"
std::string label(const TensorInfo& tensor) {
  return fmt::format("{}: tensor {}", tensor.file, printable(tensor.name));
}

tl::unexpected<Error> missing(const std::string& where, std::string_view name) {
  return fail(ErrorKind::kModel,
              "{}: tensor {} is missing; download the checkpoint again or correct config.json",
              where, name);
}

Result<void> check_shape(const TensorInfo& tensor, const std::vector<int64_t>& shape) {
  if (tensor.shape == shape) return {};
  return fail(ErrorKind::kModel,
              "{} has the shape {} but config.json makes it {}; take both from the same publisher",
              label(tensor), show_shape(tensor.shape), show_shape(shape));
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

Result<void> check_vector(const TensorInfo& tensor, int64_t size) {
  LS_TRY_VOID(check_shape(tensor, {size}));
  if (is_float(tensor.dtype)) return {};
  return fail(ErrorKind::kModel,
              "{} has the dtype {} but must be F32, BF16 or F16; use another checkpoint",
              label(tensor), dtype_name(tensor.dtype));
}

}  // namespace

Result<void> Checkpoint::Impl::finish() {
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  index.reserve(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& tensor = tensors[i];
    if (i > 0 && tensors[i - 1].name == tensor.name) {
      return fail(ErrorKind::kModel, "{} is also in {}; remove the shard that does not belong here",
                  label(tensor), tensors[i - 1].file);
    }
    index.emplace(tensor.name, i);
    total_bytes += tensor.bytes;
  }
  return {};
}

std::vector<Matrix> Checkpoint::Impl::matrices() const {
  std::vector<Matrix> matrices;
  for (size_t i = 0; i < mappings.size(); ++i) {
    const std::byte* start = mappings[i].data();
    for (const TensorInfo& tensor : tensors) {
      if (tensor.data < start || tensor.data >= start + mappings[i].bytes()) continue;
      append_matrix(tensor, i, tensor.data - start, matrices);
    }
  }
  std::sort(matrices.begin(), matrices.end(), [](const Matrix& a, const Matrix& b) {
    return std::tie(a.range, a.begin) < std::tie(b.range, b.begin);
  });
  return matrices;
}

void Checkpoint::Impl::move_tensors(size_t mapping, Mapping memory) {
  const std::byte* begin = mappings[mapping].data();
  const std::byte* end = begin + mappings[mapping].bytes();
  for (TensorInfo& tensor : tensors) {
    if (!std::less<>()(tensor.data, begin) && std::less<>()(tensor.data, end))
      tensor.data = memory.data() + (tensor.data - begin);
  }
  mappings[mapping] = std::move(memory);
}

const TensorInfo* Checkpoint::Impl::find(std::string_view name) const {
  const auto found = index.find(name);
  return found == index.end() ? nullptr : &tensors[found->second];
}

const float* Checkpoint::Impl::scales_of(const TensorInfo& tensor) const {
  if (reinterpret_cast<uintptr_t>(tensor.data) % alignof(float) == 0) {
    return reinterpret_cast<const float*>(tensor.data);
  }
  const std::lock_guard lock(aligned_mutex);
  std::unique_ptr<float[]>& copy = aligned[&tensor];
  if (copy == nullptr) {
    copy = std::make_unique<float[]>(static_cast<size_t>(tensor.bytes) / sizeof(float));
    std::memcpy(copy.get(), tensor.data, static_cast<size_t>(tensor.bytes));
  }
  return copy.get();
}

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;

const GlmConfig& Checkpoint::config() const {
  return impl_->config;
}
const std::string& Checkpoint::where() const {
  return impl_->where;
}
const TensorInfo* Checkpoint::find(std::string_view name) const {
  return impl_->find(name);
}
const std::vector<TensorInfo>& Checkpoint::tensors() const {
  return impl_->tensors;
}
const std::vector<std::string>& Checkpoint::unindexed() const {
  return impl_->unindexed;
}
int64_t Checkpoint::total_bytes() const {
  return impl_->total_bytes;
}

// The view from the headers alone, without the scales' place.
Result<WeightView> Checkpoint::view(std::string_view name, int64_t out, int64_t in) const {
  LS_CHECK_MSG(name.ends_with(".weight"), "{}", name);
  const TensorInfo* tensor = find(name);
  if (tensor == nullptr) return missing(where(), name);
  LS_TRY_VOID(check_shape(*tensor, {out, in}));
  WeightView view;
  view.data = tensor->data;
  view.dtype = tensor->dtype;
  view.out = out;
  view.in = in;
  view.block_rows = static_cast<int32_t>(config().quant_block_rows);
  view.block_cols = static_cast<int32_t>(config().quant_block_cols);
  const std::string scale_name = fmt::format("{}{}", name, kScaleSuffix);
  const TensorInfo* scale = find(scale_name);
  const bool quantised = tensor->dtype == DType::kF8E4M3;
  if (!quantised && !is_float(tensor->dtype)) {
    return fail(ErrorKind::kModel,
                "{} has the dtype {} but must be F8_E4M3, BF16, F16 or F32; use another checkpoint",
                label(*tensor), dtype_name(tensor->dtype));
  }
  if (quantised && scale == nullptr) {
    return fail(ErrorKind::kModel, "{} is F8_E4M3 but {} is missing; download the checkpoint again",
                label(*tensor), scale_name);
  }
  if (scale == nullptr) return view;
  if (!quantised) {
    return fail(ErrorKind::kModel,
                "{} is {} but has the scales {}; use a checkpoint that is wholly converted",
                label(*tensor), dtype_name(tensor->dtype), scale_name);
  }
  if (scale->dtype != DType::kF32) {
    return fail(ErrorKind::kModel,
                "{} has the dtype {} but scales must be F32; use another checkpoint", label(*scale),
                dtype_name(scale->dtype));
  }
  view.scale_stride = ceil_div(in, view.block_cols);
  const std::vector<int64_t> scale_shape = {ceil_div(out, view.block_rows), view.scale_stride};
  if (scale->shape != scale_shape) {
    return fail(ErrorKind::kModel,
                "{} has the shape {} but {} needs {} in blocks of {} x {}; correct "
                "quantization_config.weight_block_size or download the checkpoint again",
                label(*scale), show_shape(scale->shape), show_shape(tensor->shape),
                show_shape(scale_shape), view.block_rows, view.block_cols);
  }
  return view;
}

Result<WeightView> Checkpoint::weight(std::string_view name, int64_t out, int64_t in) const {
  LS_TRY(WeightView weight, view(name, out, in));
  if (weight.dtype != DType::kF8E4M3) return weight;
  const TensorInfo& scale = *find(fmt::format("{}{}", name, kScaleSuffix));
  weight.scale = impl_->scales_of(scale);
  const int64_t count = ceil_div(out, weight.block_rows) * weight.scale_stride;
  const auto bad =
      find_not_finite(reinterpret_cast<const std::byte*>(weight.scale), DType::kF32, count);
  if (!bad) return weight;
  return fail(ErrorKind::kModel,
              "{}: the scale of block [{}, {}] is not finite; download the checkpoint again",
              label(scale), *bad / weight.scale_stride, *bad % weight.scale_stride);
}

Result<std::vector<float>> Checkpoint::vector(std::string_view name, int64_t size) const {
  const TensorInfo* tensor = find(name);
  if (tensor == nullptr) return missing(where(), name);
  LS_TRY_VOID(check_vector(*tensor, size));
  if (const auto bad = find_not_finite(tensor->data, tensor->dtype, size)) {
    return fail(ErrorKind::kModel, "{}: element {} is not finite; download the checkpoint again",
                label(*tensor), *bad);
  }
  std::vector<float> values(static_cast<size_t>(size));
  convert_to_float(tensor->data, tensor->dtype, size, values.data());
  return values;
}

Result<void> Checkpoint::prefault(int threads, const LoadProgress& progress,
                                  const CancelToken& cancel) const {
  std::vector<int64_t> sizes;
  for (const Mapping& mapping : impl_->mappings) sizes.push_back(mapping.bytes());
  return for_each_piece(cut(sizes, kPrefaultPiece), threads, one_node({0}), progress, cancel,
                        "reading the model", [&](const Piece& piece) -> Result<void> {
                          auto result =
                              impl_->mappings[piece.range].populate(piece.begin, piece.bytes);
                          if (result) return {};
                          return fail(ErrorKind::kIo, "{}: {}; check the disk",
                                      impl_->mapping_names[piece.range], result.error().message);
                        });
}

Result<void> Checkpoint::read_into_memory(int threads, const Topology& topology,
                                          const LoadProgress& progress, const CancelToken& cancel) {
  std::vector<int64_t> sizes;
  int64_t all = 0;
  for (const Mapping& mapping : impl_->mappings) {
    sizes.push_back(mapping.is_file() ? mapping.bytes() : 0);
    all += sizes.back();
  }
  if (all > available_memory()) {
    return fail(ErrorKind::kMemory,
                "{} has {:.1f} GB of weights and {:.1f} GB of host memory are free", where(),
                static_cast<double>(all) / 1e9, static_cast<double>(available_memory()) / 1e9);
  }
  const int nodes = std::min(topology.size(), threads);
  std::vector<Mapping> rooms(sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) continue;
    LS_TRY(rooms[i], impl_->mappings[i].room());
  }
  LS_TRY_VOID(for_each_piece(
      cut_for_nodes(sizes, impl_->matrices(), kPrefaultPiece, nodes), threads, topology, progress,
      cancel, "reading the model", [&](const Piece& piece) -> Result<void> {
        const Mapping& file = impl_->mappings[piece.range];
        auto result = file.read_into(rooms[piece.range], piece.begin, piece.bytes);
        if (result) return {};
        return fail(ErrorKind::kIo, "{}: {}; check the disk", impl_->mapping_names[piece.range],
                    result.error().message);
      }));
  impl_->aligned.clear();
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] > 0) impl_->move_tensors(i, std::move(rooms[i]));
  }
  return {};
}

std::vector<std::span<const std::byte>> Checkpoint::memory() const {
  std::vector<std::span<const std::byte>> ranges;
  for (const Mapping& mapping : impl_->mappings) {
    if (mapping.bytes() > 0)
      ranges.emplace_back(mapping.data(), static_cast<size_t>(mapping.bytes()));
  }
  return ranges;
}

std::vector<std::string> Checkpoint::check_layout(std::vector<std::string>* unused) const {
  std::vector<std::string> problems;
  std::vector<bool> used(impl_->tensors.size(), false);
  const auto mark = [&](std::string_view name) {
    const auto found = impl_->index.find(name);
    if (found != impl_->index.end()) used[found->second] = true;
    return found != impl_->index.end();
  };
  for (const TensorSpec& spec : checkpoint_layout(config())) {
    const bool present = mark(spec.name);
    if (!present && spec.optional) continue;
    if (spec.is_matrix()) {
      mark(spec.name + std::string(kScaleSuffix));
      auto result = view(spec.name, spec.shape[0], spec.shape[1]);
      if (!result) problems.push_back(std::move(result).error().message);
    } else {
      auto result = present ? check_vector(*find(spec.name), spec.shape[0])
                            : Result<void>(missing(where(), spec.name));
      if (!result) problems.push_back(std::move(result).error().message);
    }
  }
  if (unused != nullptr) {
    for (size_t i = 0; i < used.size(); ++i) {
      if (!used[i]) unused->push_back(impl_->tensors[i].name);
    }
  }
  return problems;
}

std::vector<std::string> Checkpoint::contradicted_indexers() const {
  std::vector<std::string> lines;
  for (int64_t layer = 0; layer < config().num_layers; ++layer) {
    if (config().has_indexer(layer)) continue;
    const std::string prefix = fmt::format("model.layers.{}.self_attn.indexer.", layer);
    const auto first = std::lower_bound(
        tensors().begin(), tensors().end(), prefix,
        [](const TensorInfo& tensor, const std::string& name) { return tensor.name < name; });
    if (first == tensors().end() || !first->name.starts_with(prefix)) continue;
    lines.push_back(fmt::format(
        "{} is there, but config.json (indexer_types, index_topk_pattern or index_topk_freq) makes "
        "layer {} use the choices "
        "of a layer before it: its indexer is not used; correct config.json if it should be",
        label(*first), layer));
  }
  return lines;
}

}  // namespace longshore
