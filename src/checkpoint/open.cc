// Finding a checkpoint's files and reading their headers.
#include <algorithm>
#include <map>
#include <set>
#include <span>
#include <utility>

#include <sys/stat.h>

#include "base/file.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/impl.h"
#include "checkpoint/json.h"
#include "checkpoint/safetensors.h"

namespace longshore {
namespace {

using nlohmann::json;

constexpr int64_t kMaxIndexBytes = int64_t{256} << 20;
constexpr const char* kSingleName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";

bool exists(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0;
}

// A plain file name: a shard must lie in the model's own directory.
bool is_plain_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

// The tensors that each shard must hold.
using ShardMap = std::map<std::string, std::set<std::string>>;

Result<ShardMap> read_index(const std::string& path) {
  LS_TRY(const std::string text, read_file(path, kMaxIndexBytes, ErrorKind::kModel));
  LS_TRY(const json document, parse_json(text, path));
  const auto weight_map = document.is_object() ? document.find("weight_map") : document.end();
  if (!document.is_object() || weight_map == document.end() || !weight_map->is_object() ||
      weight_map->empty()) {
    return fail(ErrorKind::kModel, "{}: weight_map is missing or empty; download the file again",
                path);
  }
  ShardMap shards;
  for (const auto& [tensor, shard] : weight_map->items()) {
    if (!shard.is_string() || !is_plain_name(shard.get_ref<const std::string&>())) {
      return fail(ErrorKind::kModel,
                  "{}: tensor {} names {} as its shard, which is no file name of this directory; "
                  "download the file again",
                  path, printable(tensor),
                  printable(shard.dump(-1, ' ', true, json::error_handler_t::replace)));
    }
    shards[shard.get<std::string>()].insert(tensor);
  }
  return shards;
}

}  // namespace

// Maps a shard and lists its tensors.
Result<void> Checkpoint::add_shard(Impl& impl, const std::string& path) {
  LS_TRY(Mapping mapping, Mapping::file(path, ErrorKind::kModel));
  const std::span<const std::byte> content(mapping.data(), static_cast<size_t>(mapping.bytes()));
  LS_TRY(std::vector<SafetensorsEntry> entries, parse_safetensors(content, mapping.bytes(), path));
  for (SafetensorsEntry& entry : entries) {
    TensorInfo tensor;
    tensor.name = std::move(entry.name);
    tensor.dtype = entry.dtype;
    tensor.shape = std::move(entry.shape);
    tensor.data = mapping.data() + entry.begin;
    tensor.bytes = entry.end - entry.begin;
    tensor.file = path;
    impl.tensors.push_back(std::move(tensor));
  }
  impl.mappings.push_back(std::move(mapping));
  impl.mapping_names.push_back(path);
  return {};
}

Result<Checkpoint> Checkpoint::open(const std::string& model_dir) {
  auto impl = std::make_unique<Impl>();
  impl->where = model_dir;
  LS_TRY(impl->config, load_config(model_dir));
  const std::string index_path = model_dir + "/" + kIndexName;
  const std::string single_path = model_dir + "/" + kSingleName;
  if (!exists(index_path)) {
    if (!exists(single_path)) {
      return fail(ErrorKind::kModel,
                  "{}: neither {} nor {} is there; name a directory with a whole checkpoint",
                  model_dir, kSingleName, kIndexName);
    }
    LS_TRY_VOID(add_shard(*impl, single_path));
    LS_TRY_VOID(impl->finish());
    return Checkpoint(std::move(impl));
  }
  LS_TRY(const ShardMap shards, read_index(index_path));
  for (const auto& [shard, tensors] : shards) {
    const std::string path = model_dir + "/" + shard;
    if (!exists(path)) {
      return fail(ErrorKind::kModel, "{}: shard {} is absent; download it", index_path,
                  printable(shard));
    }
    const size_t before = impl->tensors.size();
    LS_TRY_VOID(add_shard(*impl, path));
    size_t found = 0;
    for (size_t i = before; i < impl->tensors.size(); ++i) {
      const std::string& name = impl->tensors[i].name;
      if (tensors.contains(name)) {
        ++found;
      } else {
        impl->unindexed.push_back(printable(name));
      }
    }
    if (found == tensors.size()) continue;
    std::set<std::string> absent = tensors;
    for (size_t i = before; i < impl->tensors.size(); ++i) absent.erase(impl->tensors[i].name);
    return fail(ErrorKind::kModel,
                "{}: tensor {} is missing, though {} places it there; download the shard again",
                path, printable(*absent.begin()), kIndexName);
  }
  LS_TRY_VOID(impl->finish());
  return Checkpoint(std::move(impl));
}

}  // namespace longshore
