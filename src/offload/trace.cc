#include "offload/trace.h"

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace longshore::offload {
namespace {

constexpr std::string_view kMagic = "LSROUTES";
constexpr int32_t kVersion = 1;
constexpr int32_t kMostLayers = 1 << 16;
constexpr int32_t kMostExperts = 1 << 16;

tl::unexpected<Error> broken(const std::string& path, std::string_view what) {
  return fail(ErrorKind::kUsage, "{}: not a routing trace: {}; record one with --record-routing",
              path, what);
}

bool read_ints(std::FILE* file, std::span<int32_t> into) {
  return std::fread(into.data(), sizeof(int32_t), into.size(), file) == into.size();
}

// One record after its layer; empty: it is cut off or out of range.
bool read_record(std::FILE* file, const Trace& trace, LayerRoutes& record) {
  int32_t count = 0;
  if (record.layer < 0 || record.layer >= trace.layers || !read_ints(file, {&count, 1}))
    return false;
  if (count < 0 || count > trace.experts) return false;
  std::vector<int32_t> pairs(static_cast<size_t>(count) * 2);
  if (!read_ints(file, pairs)) return false;
  for (size_t i = 0; i < pairs.size(); i += 2) {
    if (pairs[i] < 0 || pairs[i] >= trace.experts || pairs[i + 1] < 1) return false;
    record.routed.push_back({pairs[i], pairs[i + 1]});
  }
  return true;
}

}  // namespace

std::vector<Routed> routed_of(std::span<const int32_t> tokens_of) {
  std::vector<Routed> routed;
  for (size_t expert = 0; expert < tokens_of.size(); ++expert) {
    if (tokens_of[expert] > 0) routed.push_back({static_cast<int32_t>(expert), tokens_of[expert]});
  }
  return routed;
}

Result<Trace> Trace::read(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"),
                                                             std::fclose);
  if (file == nullptr)
    return fail(ErrorKind::kUsage, "{}: cannot read it: {}", path, std::strerror(errno));
  std::string magic(kMagic.size(), '\0');
  int32_t header[3] = {};
  if (std::fread(magic.data(), 1, magic.size(), file.get()) != magic.size() || magic != kMagic ||
      !read_ints(file.get(), header)) {
    return broken(path, "it does not begin like one");
  }
  if (header[0] != kVersion) return broken(path, fmt::format("version {}", header[0]));
  if (header[1] < 1 || header[1] > kMostLayers || header[2] < 1 || header[2] > kMostExperts)
    return broken(path, fmt::format("{} layers of {} experts", header[1], header[2]));
  Trace trace{header[1], header[2], {}};
  int32_t previous = trace.layers;
  while (true) {
    LayerRoutes record;
    const size_t bytes = std::fread(&record.layer, 1, sizeof record.layer, file.get());
    if (bytes == 0) break;
    if (bytes < sizeof record.layer || !read_record(file.get(), trace, record)) {
      return broken(path,
                    fmt::format("record {} is cut off or out of range", trace.records.size()));
    }
    record.new_step = record.layer <= previous;
    previous = record.layer;
    trace.records.push_back(std::move(record));
  }
  if (std::ferror(file.get()) != 0)
    return fail(ErrorKind::kUsage, "{}: cannot read it: {}", path, std::strerror(errno));
  if (trace.records.empty()) return broken(path, "it has no records");
  return trace;
}

Result<TraceWriter> TraceWriter::create(const std::string& path, int32_t layers, int32_t experts) {
  LS_CHECK(layers >= 1 && layers <= kMostLayers && experts >= 1 && experts <= kMostExperts);
  TraceWriter writer;
  writer.path_ = path;
  writer.file_.reset(std::fopen(path.c_str(), "wb"));
  if (writer.file_ == nullptr)
    return fail(ErrorKind::kIo, "{}: cannot write it: {}", path, std::strerror(errno));
  std::fwrite(kMagic.data(), 1, kMagic.size(), writer.file_.get());
  const int32_t header[3] = {kVersion, layers, experts};
  std::fwrite(header, sizeof header, 1, writer.file_.get());
  return writer;
}

void TraceWriter::add(int32_t layer, std::span<const Routed> routed) {
  LS_CHECK(file_ != nullptr);
  record_ = {layer, static_cast<int32_t>(routed.size())};
  for (const Routed& each : routed) {
    record_.push_back(each.expert);
    record_.push_back(each.tokens);
  }
  const size_t written = std::fwrite(record_.data(), sizeof(int32_t), record_.size(), file_.get());
  failed_ = failed_ || written != record_.size();
}

Result<void> TraceWriter::close() {
  failed_ = std::fflush(file_.get()) != 0 || std::ferror(file_.get()) != 0 || failed_;
  const int fault = errno;
  file_.reset();
  if (failed_) return fail(ErrorKind::kIo, "{}: cannot write it: {}", path_, std::strerror(fault));
  return {};
}

}  // namespace longshore::offload
