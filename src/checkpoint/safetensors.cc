#include "checkpoint/safetensors.h"

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "base/output_file.h"
#include "checkpoint/json.h"

namespace longshore {
namespace {

using nlohmann::json;

constexpr int64_t kPrefix = 8;
constexpr int64_t kMaxHeader = 100'000'000;  // the reference implementation's limit
constexpr size_t kMaxDimensions = 8;
constexpr const char* kDamaged = "the file is truncated or damaged; download it again";

std::optional<DType> parse_dtype(const std::string& name) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kF8E4M3, DType::kI32,
                      DType::kI64, DType::kU8}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

// A number in [0, INT64_MAX].
std::optional<int64_t> parse_count(const json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const auto number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return static_cast<int64_t>(number);
}

Result<void> parse_shape(const json& shape, const std::string& what, SafetensorsEntry& entry) {
  if (!shape.is_array() || shape.size() > kMaxDimensions) {
    return fail(ErrorKind::kModel, "{}: its shape is not a list of at most {} numbers: {}", what,
                kMaxDimensions, kDamaged);
  }
  for (const json& dimension : shape) {
    const auto count = parse_count(dimension);
    if (!count) {
      return fail(ErrorKind::kModel, "{}: its shape holds something other than a whole number: {}",
                  what, kDamaged);
    }
    entry.shape.push_back(*count);
  }
  return {};
}

// data_bytes: how many bytes follow the header.
Result<void> parse_offsets(const json& offsets, const std::string& what, int64_t data_bytes,
                           SafetensorsEntry& entry) {
  std::optional<int64_t> begin;
  std::optional<int64_t> end;
  if (offsets.is_array() && offsets.size() == 2) {
    begin = parse_count(offsets[0]);
    end = parse_count(offsets[1]);
  }
  if (!begin || !end || *begin > *end) {
    return fail(ErrorKind::kModel,
                "{}: its data_offsets are not [begin, end] with begin <= end: {}", what, kDamaged);
  }
  if (*end > data_bytes) {
    return fail(ErrorKind::kModel, "{}: its data end at byte {} but the file holds {}: {}", what,
                *end, data_bytes, kDamaged);
  }
  entry.begin = *begin;
  entry.end = *end;
  return {};
}

std::optional<int64_t> byte_count(const std::vector<int64_t>& shape, DType dtype) {
  int64_t bytes = dtype_size(dtype);
  // A zero anywhere makes the product zero, whatever the other numbers are.
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  for (const int64_t dimension : shape) {
    if (__builtin_mul_overflow(bytes, dimension, &bytes)) return std::nullopt;
  }
  return bytes;
}

Result<SafetensorsEntry> parse_entry(const std::string& name, const json& value, int64_t data_bytes,
                                     const std::string& where) {
  const std::string what = fmt::format("{}: tensor {}", where, printable(name));
  SafetensorsEntry entry;
  entry.name = name;
  if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
      !value.contains("shape") || !value.contains("data_offsets") || !value["dtype"].is_string()) {
    return fail(ErrorKind::kModel, "{}: its entry is not {{dtype, shape, data_offsets}}: {}", what,
                kDamaged);
  }
  const auto& dtype_text = value["dtype"].get_ref<const std::string&>();
  const auto dtype = parse_dtype(dtype_text);
  if (!dtype) {
    return fail(ErrorKind::kModel,
                "{}: dtype {} is not supported; use a checkpoint in F32, BF16, F16 or F8_E4M3",
                what, printable(dtype_text));
  }
  entry.dtype = *dtype;
  LS_TRY_VOID(parse_shape(value["shape"], what, entry));
  LS_TRY_VOID(parse_offsets(value["data_offsets"], what, data_bytes, entry));
  const auto bytes = byte_count(entry.shape, entry.dtype);
  if (!bytes || *bytes != entry.end - entry.begin) {
    return fail(ErrorKind::kModel, "{}: its shape and dtype need {} bytes but its data have {}: {}",
                what, bytes ? std::to_string(*bytes) : "too many", entry.end - entry.begin,
                kDamaged);
  }
  return entry;
}

// Sorts by offset and refuses overlaps and holes.
Result<void> check_cover(std::vector<SafetensorsEntry>& entries, int64_t data_bytes,
                         const std::string& where) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  int64_t covered = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    const SafetensorsEntry& entry = entries[i];
    if (entry.begin < covered) {
      return fail(ErrorKind::kModel, "{}: tensor {} overlaps tensor {}: {}", where,
                  printable(entry.name), printable(entries[i - 1].name), kDamaged);
    }
    if (entry.begin > covered) {
      return fail(ErrorKind::kModel, "{}: {} bytes before tensor {} belong to no tensor: {}", where,
                  entry.begin - covered, printable(entry.name), kDamaged);
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    return fail(ErrorKind::kModel, "{}: the last {} bytes belong to no tensor: {}", where,
                data_bytes - covered, kDamaged);
  }
  return {};
}

// The header's JSON text; checks its length against the file.
Result<std::string_view> header_text(std::span<const std::byte> file, int64_t file_bytes,
                                     const std::string& where) {
  if (file_bytes < kPrefix || static_cast<int64_t>(file.size()) < kPrefix) {
    return fail(ErrorKind::kModel, "{}: {} bytes are too few for a safetensors file: {}", where,
                file_bytes, kDamaged);
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kPrefix; ++i) length |= std::to_integer<uint64_t>(file[i]) << (8 * i);
  const auto available =
      std::min<uint64_t>(static_cast<uint64_t>(file_bytes), file.size()) - kPrefix;
  if (length > kMaxHeader || length > available) {
    return fail(ErrorKind::kModel, "{}: a header of {} bytes does not fit the file of {} bytes: {}",
                where, length, file_bytes, kDamaged);
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kPrefix, length);
  if (text.empty() || text.front() != '{') {
    return fail(ErrorKind::kModel, "{}: the header is not a JSON object: {}", where, kDamaged);
  }
  return text;
}

Result<void> check_metadata(const json& metadata, const std::string& where) {
  const bool sound =
      metadata.is_object() && std::all_of(metadata.begin(), metadata.end(),
                                          [](const json& value) { return value.is_string(); });
  if (sound) return {};
  return fail(ErrorKind::kModel, "{}: __metadata__ is not a map of strings: {}", where, kDamaged);
}

std::string make_header(const std::vector<const SafetensorsTensor*>& tensors) {
  json header = json::object();
  int64_t offset = 0;
  for (const SafetensorsTensor* tensor : tensors) {
    const auto bytes = byte_count(tensor->shape, tensor->dtype);
    LS_CHECK_MSG(bytes && *bytes == static_cast<int64_t>(tensor->data.size()),
                 "tensor {} has {} bytes", tensor->name, tensor->data.size());
    LS_CHECK_MSG(!header.contains(tensor->name), "tensor {} twice", tensor->name);
    header[tensor->name] = {{"dtype", dtype_name(tensor->dtype)},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + *bytes}}};
    offset += *bytes;
  }
  std::string text = header.dump(-1, ' ', true, json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace

Result<std::vector<SafetensorsEntry>> parse_safetensors(std::span<const std::byte> file,
                                                        int64_t file_bytes,
                                                        const std::string& where) {
  LS_TRY(const std::string_view text, header_text(file, file_bytes, where));
  LS_TRY(const json header, parse_json(text, where));
  const int64_t data_begin = kPrefix + static_cast<int64_t>(text.size());
  const int64_t data_bytes = file_bytes - data_begin;
  std::vector<SafetensorsEntry> entries;
  entries.reserve(header.size());
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      LS_TRY_VOID(check_metadata(value, where));
      continue;
    }
    LS_TRY(SafetensorsEntry entry, parse_entry(name, value, data_bytes, where));
    entries.push_back(std::move(entry));
  }
  LS_TRY_VOID(check_cover(entries, data_bytes, where));
  for (SafetensorsEntry& entry : entries) {
    entry.begin += data_begin;
    entry.end += data_begin;
  }
  return entries;
}

Result<void> write_safetensors(const std::string& path,
                               std::span<const SafetensorsTensor> tensors) {
  std::vector<const SafetensorsTensor*> order;
  for (const SafetensorsTensor& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return dtype_size(a->dtype) > dtype_size(b->dtype);
  });
  const std::string header = make_header(order);
  std::array<unsigned char, kPrefix> prefix{};
  for (size_t i = 0; i < prefix.size(); ++i) {
    prefix[i] = static_cast<unsigned char>(header.size() >> (8 * i));
  }
  LS_TRY(OutputFile file, OutputFile::create(path));
  LS_TRY_VOID(file.write(prefix.data(), prefix.size()));
  LS_TRY_VOID(file.write(header.data(), header.size()));
  for (const SafetensorsTensor* tensor : order) {
    LS_TRY_VOID(file.write(tensor->data.data(), tensor->data.size()));
  }
  return file.commit();
}

}  // namespace longshore
