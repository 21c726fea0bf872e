// onednn_bench [EXPERTS [THREADS]]: a layer's experts at 512 and 8192 tokens, by the cpu backend
// and by oneDNN's matmul, in one run.
//
// oneDNN gets what it does best: bf16 weights reordered beforehand into the layout it asks for,
// inputs gathered beforehand, its three products per expert and nothing else. The cpu backend does
// the whole operation: gather, products, silu*mul, weighted sum, over the checkpoint's row-major
// bytes. FP8 weights have no counterpart in oneDNN; its bf16 products are the nearest. Source of
// the interface: oneDNN 2.6 developer guide, matmul.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>

#include <dnnl.hpp>

#include "base/clock.h"
#include "bench/ceilings.h"
#include "bench/expert_batch.h"
#include "bench/report.h"
#include "kernels/backend.h"

namespace longshore::bench {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;
using Type = memory::data_type;

constexpr int kRepeats = 3;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Products of [rows, in] bf16 with one matrix [out, in] after another, for any number of rows.
class Matmuls {
 public:
  // typical_rows: the number that the weights' layout is chosen for.
  Matmuls(const dnnl::engine& engine, int64_t in, int64_t out, Type result, int64_t typical_rows)
      : engine_(engine), in_(in), out_(out), result_(result) {
    weights_ = describe(typical_rows, memory::desc({in, out}, Type::bf16, Tag::any)).weights_desc();
  }

  // The matrix in oneDNN's own layout.
  [[nodiscard]] memory reorder(dnnl::stream& stream, const WeightView& w) const {
    const memory plain({{in_, out_}, Type::bf16, Tag::ba}, engine_, const_cast<std::byte*>(w.data));
    memory target(weights_, engine_);
    dnnl::reorder(plain, target).execute(stream, const_cast<memory&>(plain), target);
    stream.wait();
    return target;
  }

  void run(dnnl::stream& stream, int64_t rows, void* x, const memory& weights, void* y) {
    auto found = primitives_.find(rows);
    if (found == primitives_.end()) {
      found = primitives_.emplace(rows, dnnl::matmul(describe(rows, weights_))).first;
    }
    const memory source({{rows, in_}, Type::bf16, Tag::ab}, engine_, x);
    const memory target({{rows, out_}, result_, Tag::ab}, engine_, y);
    found->second.execute(
        stream, {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, target}});
  }

 private:
  [[nodiscard]] dnnl::matmul::primitive_desc describe(int64_t rows,
                                                      const memory::desc& weights) const {
    const dnnl::matmul::desc desc({{rows, in_}, Type::bf16, Tag::ab}, weights,
                                  {{rows, out_}, result_, Tag::ab});
    return {desc, engine_};
  }

  dnnl::engine engine_;
  int64_t in_;
  int64_t out_;
  Type result_;
  memory::desc weights_;
  std::map<int64_t, dnnl::matmul> primitives_;
};

class OneDnnExperts {
 public:
  OneDnnExperts(const ExpertBank& bank, int64_t typical_rows)
      : engine_(dnnl::engine::kind::cpu, 0),
        stream_(engine_),
        up_(engine_, ExpertBank::kHidden, ExpertBank::kIntermediate, Type::bf16, typical_rows),
        down_(engine_, ExpertBank::kIntermediate, ExpertBank::kHidden, Type::f32, typical_rows) {
    for (const kernels::ExpertView& expert : bank.views()) {
      weights_.push_back(up_.reorder(stream_, expert.gate));
      weights_.push_back(up_.reorder(stream_, expert.up));
      weights_.push_back(down_.reorder(stream_, expert.down));
    }
  }

  // Seconds of all experts' products; the batch's rows are taken as they lie, in equal numbers.
  double run(const ExpertBatch& batch) {
    std::vector<int64_t> rows(weights_.size() / 3);
    for (const int32_t id : batch.ids) ++rows[static_cast<size_t>(id)];
    const int64_t most = *std::max_element(rows.begin(), rows.end());
    x_.assign(static_cast<size_t>(most * ExpertBank::kHidden), 0x3F80);
    hidden_.resize(static_cast<size_t>(2 * most * ExpertBank::kIntermediate));
    y_.resize(static_cast<size_t>(most * ExpertBank::kHidden));
    const Stopwatch watch;
    for (size_t e = 0; e < rows.size(); ++e) {
      if (rows[e] == 0) continue;
      uint16_t* gate = hidden_.data();
      up_.run(stream_, rows[e], x_.data(), weights_[3 * e], gate);
      up_.run(stream_, rows[e], x_.data(), weights_[3 * e + 1],
              gate + rows[e] * ExpertBank::kIntermediate);
      down_.run(stream_, rows[e], gate, weights_[3 * e + 2], y_.data());
    }
    stream_.wait();
    return watch.seconds();
  }

 private:
  dnnl::engine engine_;
  dnnl::stream stream_;
  Matmuls up_;
  Matmuls down_;
  std::vector<memory> weights_;   // [experts, 3]
  std::vector<uint16_t> x_;       // [rows, hidden] bf16
  std::vector<uint16_t> hidden_;  // [2, rows, intermediate] bf16
  std::vector<float> y_;          // [rows, hidden]
};

double ours(kernels::Backend& backend, const ExpertBank& bank, ExpertBatch& batch) {
  std::vector<double> seconds;
  for (int repeat = 0; repeat <= kRepeats; ++repeat) {
    std::fill(batch.y.begin(), batch.y.end(), 0.0F);
    const Stopwatch watch;
    backend.experts(batch.params(bank));
    if (repeat > 0) seconds.push_back(watch.seconds());
  }
  return median(seconds);
}

Result<void> bench(int64_t experts, int threads) {
  ThreadPool pool(threads, /*pin=*/true);
  LS_TRY(const std::unique_ptr<kernels::Backend> backend, kernels::make_cpu_backend(pool, "auto"));
  const CancelToken cancel;
  LS_TRY(const double dram, dram_read_gbs(pool, cancel));
  const Bf16Peak peak = bf16_peak(pool);
  Report report;
  report.bench = "onednn";
  report.machine = machine_name(threads) + ", " + std::string(backend->name());
  report.ceilings = {{"DRAM read GB/s", dram}, {std::string(peak.unit) + " GFLOP/s", peak.gflops}};
  const auto add = [&](const ExpertBatch& batch, const char* name, double bytes, double seconds) {
    const double flops = static_cast<double>(batch.ids.size()) * ExpertBank::kRouteFlops;
    const double bound =
        std::min(peak.gflops, dram * flops / (bytes * static_cast<double>(experts)));
    report.rows.push_back({std::to_string(batch.tokens) + " tokens, " + name, flops / seconds / 1e9,
                           "GFLOP/s", bound});
  };
  constexpr auto kBytes = static_cast<double>(ExpertBank::kExpertBytes);
  std::vector<ExpertBatch> batches;
  for (const int64_t tokens : {512, 8192}) {
    batches.emplace_back(tokens, kTopK, 11);
    batches.back().route_uniformly(experts, 3);
  }
  {
    LS_TRY(const ExpertBank bank, ExpertBank::create(pool, experts, 1));
    for (ExpertBatch& batch : batches)
      add(batch, "longshore, FP8 weights", kBytes, ours(*backend, bank, batch));
  }
  LS_TRY(const ExpertBank bank, ExpertBank::create(pool, experts, 1, DType::kBF16));
  for (ExpertBatch& batch : batches)
    add(batch, "longshore, bf16 weights", 2 * kBytes, ours(*backend, bank, batch));
  // Last: its threads may stay busy after a product.
  for (const ExpertBatch& batch : batches) {
    OneDnnExperts yardstick(bank, static_cast<int64_t>(batch.ids.size()) / experts);
    std::vector<double> seconds;
    for (int repeat = 0; repeat <= kRepeats; ++repeat) {
      const double run = yardstick.run(batch);
      if (repeat > 0) seconds.push_back(run);
    }
    add(batch, "oneDNN, bf16 weights, products only", 2 * kBytes, median(seconds));
  }
  std::fputs(report.table().c_str(), stdout);
  return {};
}

}  // namespace
}  // namespace longshore::bench

int main(int argc, char** argv) {
  const int64_t experts = argc > 1 ? std::atoll(argv[1]) : 256;
  const int threads = argc > 2 ? std::atoi(argv[2]) : longshore::available_cpus();
  if (experts < 8 || threads < 1) {
    std::fputs("usage: onednn_bench [EXPERTS (8 or more) [THREADS]]\n", stderr);
    return 2;
  }
  try {
    const auto done = longshore::bench::bench(experts, threads);
    if (!done) std::fprintf(stderr, "%s\n", done.error().message.c_str());
    return done ? 0 : 1;
  } catch (const dnnl::error& error) {
    std::fprintf(stderr, "oneDNN: %s (its bf16 products need AVX-512)\n", error.what());
    return 1;
  }
}
