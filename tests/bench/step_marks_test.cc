// Where a step's device time goes: which stamps a step has and in which order, that its parts are
// all of it, and that without stamps it is the step that it was.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "bench/marked_backend.h"
#include "bench/model_bench.h"
#include "bench/offload_bench.h"
#include "bench/sequence.h"
#include "bench/step_breakdown.h"
#include "tests/model/fake_device.h"
#include "tests/paths.h"

namespace longshore::bench {
namespace {

const std::string kNano = longshore::source_dir() + "/models/glm-nano";

std::unique_ptr<kernels::Backend> fake(ThreadPool& pool, FakeDevice** device, bool marked) {
  auto inner = kernels::make_cpu_backend(pool, "generic");
  LS_CHECK(inner.has_value());
  auto made = std::make_unique<FakeDevice>(std::move(*inner));
  *device = made.get();
  if (!marked) return made;
  auto with_marks = make_marked_backend(std::move(made));
  LS_CHECK_MSG(with_marks.has_value(), "{}", with_marks.error().message);
  return std::move(*with_marks);
}

// gib: of slots; negative: all experts are on the device.
session::LoadOptions options_of(double gib, bool graphs, const std::string& dir = kNano) {
  session::LoadOptions options;
  options.model = dir;
  options.cpu_isa = "generic";
  options.threads = 1;
  options.context_length = 256;
  options.chunk = 64;
  options.max_running = 2;
  options.with_text = false;
  options.graphs.on = graphs;
  if (gib >= 0) options.gpu_expert_gib = gib;
  return options;
}

struct Loaded {
  FakeDevice* device = nullptr;
  std::unique_ptr<session::LoadedModel> model;
};

Loaded load(double gib, bool marked, bool graphs = true, const std::string& dir = kNano) {
  Loaded loaded;
  session::LoadOptions options = options_of(gib, graphs, dir);
  options.backend = [&](ThreadPool& pool) { return fake(pool, &loaded.device, marked); };
  auto made = session::LoadedModel::load(
      options, [](int64_t, int64_t) {}, CancelToken());
  LS_CHECK_MSG(made.has_value(), "{}", made.error().message);
  loaded.model = std::move(*made);
  if (marked) name_parts(*loaded.model->backend, loaded.model->model->weights());
  return loaded;
}

Sequence sequence_of(session::LoadedModel& loaded, int64_t filled) {
  auto sequence = Sequence::create(loaded, 200, 1);
  LS_CHECK_MSG(sequence.has_value(), "{}", sequence.error().message);
  while (sequence->length() < filled) LS_CHECK(sequence->step(1).has_value());
  return std::move(*sequence);
}

std::map<std::string, int64_t> calls_of_step(Loaded& loaded, Sequence& sequence) {
  const std::map<std::string, int64_t> before = loaded.device->calls;
  LS_CHECK(sequence.step(1).has_value());
  std::map<std::string, int64_t> calls;
  for (const auto& [name, count] : loaded.device->calls) {
    const auto was = before.find(name);
    const int64_t now = count - (was == before.end() ? 0 : was->second);
    if (now > 0) calls[name] = now;
  }
  return calls;
}

int64_t moe_layers(const Loaded& loaded) {
  return loaded.model->model->experts().experts().layers();
}

TEST(StepMarks, AStepWithoutThemQueuesWhatItQueuedBefore) {
  for (const double gib : {-1.0, 0.0}) {
    for (const bool graphs : {true, false}) {
      Loaded plain = load(gib, /*marked=*/false, graphs);
      Loaded marked = load(gib, /*marked=*/true, graphs);
      Sequence a = sequence_of(*plain.model, 3);
      Sequence b = sequence_of(*marked.model, 3);
      const auto expected = calls_of_step(plain, a);
      EXPECT_EQ(calls_of_step(marked, b), expected) << gib << graphs;
      EXPECT_FALSE(marked.device->calls.contains("stamp"));

      StepMarks& marks = *marks_of(*marked.model->backend);
      marks.mark(true);
      Sequence c = sequence_of(*marked.model, 3);
      marks.begin_step();
      auto with = calls_of_step(marked, c);
      const auto time = marks.end_step();
      ASSERT_TRUE(time) << time.error().message;
      EXPECT_EQ(with["stamp"], time->stamps);
      with.erase("stamp");
      EXPECT_EQ(with, expected) << "the same and stamps";
    }
  }
}

TEST(StepMarks, ACapturedStepHasItsPartsInTheirOrder) {
  Loaded loaded = load(/*gib=*/0, /*marked=*/true);
  StepMarks& marks = *marks_of(*loaded.model->backend);
  marks.mark(true);
  Sequence sequence = sequence_of(*loaded.model, 3);
  std::vector<Part> expected = {Part::kInput, Part::kLaunch, Part::kInput};
  const auto add = [&](std::initializer_list<Part> parts) {
    expected.insert(expected.end(), parts);
  };
  for (const model::LayerWeights& layer : loaded.model->model->weights().layers) {
    add({Part::kProjections});
    if (layer.attention.indexer) add({Part::kIndex, Part::kProjections});
    add({Part::kSparseMla, Part::kProjections});
    if (layer.dense) {
      add({Part::kDense});
      continue;
    }
    add({Part::kRouter, Part::kHandshake, Part::kShared, Part::kHandshake, Part::kExperts,
         Part::kWireWait, Part::kFetched, Part::kCpuWait, Part::kCombine});
  }
  add({Part::kHead, Part::kRest});
  for (int i = 0; i < 2; ++i) {
    const int64_t launches = loaded.device->launches;
    marks.begin_step();
    ASSERT_TRUE(sequence.step(1));
    const auto time = marks.end_step();
    ASSERT_TRUE(time) << time.error().message;
    EXPECT_EQ(loaded.device->launches, launches + 1);
    EXPECT_EQ(time->order, expected);
    EXPECT_EQ(time->stamps, static_cast<int64_t>(expected.size()) + 1);
  }
}

// The fake device's clock knows how long each operation takes.
TEST(StepMarks, ThePartsOfAStepAreItsOperationsAndAllOfIt) {
  for (const bool graphs : {true, false}) {
    Loaded loaded = load(/*gib=*/0, /*marked=*/true, graphs);
    StepMarks& marks = *marks_of(*loaded.model->backend);
    marks.mark(true);
    Sequence sequence = sequence_of(*loaded.model, 3);
    marks.begin_step();
    const auto calls = calls_of_step(loaded, sequence);
    const auto time = marks.end_step();
    ASSERT_TRUE(time) << time.error().message;
    double sum = 0;
    int64_t operations = 0;
    int64_t stamps = 0;
    for (const PartTime& part : time->parts) {
      sum += part.seconds;
      operations += part.operations;
      stamps += part.stamps;
    }
    EXPECT_NEAR(sum, time->seconds, 1e-12);
    EXPECT_EQ(stamps, time->stamps - 1) << "the last one begins nothing";
    int64_t all = 0;
    for (const auto& [name, count] : calls) all += name == "stamp" ? 0 : count;
    EXPECT_NEAR(time->seconds,
                1e-9 * static_cast<double>(all) * FakeDevice::kOperation +
                    1e-9 * static_cast<double>(stamps) * FakeDevice::kStamp,
                1e-12)
        << "from the first operation to the last";

    const auto seconds = [&](Part part) { return time->parts[static_cast<size_t>(part)].seconds; };
    const auto expect = [&](Part part, int64_t launches, int64_t of_them_stamps) {
      EXPECT_NEAR(seconds(part),
                  1e-9 * static_cast<double>(launches) * FakeDevice::kOperation +
                      1e-9 * static_cast<double>(of_them_stamps) * FakeDevice::kStamp,
                  1e-12)
          << name_of(part);
      EXPECT_EQ(time->parts[static_cast<size_t>(part)].stamps, of_them_stamps) << name_of(part);
    };
    const int64_t layers = loaded.model->model->config().num_layers;
    const int64_t moe = moe_layers(loaded);
    expect(Part::kSparseMla, layers, layers);
    expect(Part::kRouter, 3 * moe, moe);
    expect(Part::kShared, 4 * moe, moe);
    expect(Part::kHandshake, 2 * moe, 2 * moe);
    expect(Part::kExperts, moe, moe);
    expect(Part::kWireWait, 0, moe);
    expect(Part::kFetched, moe, moe);
    expect(Part::kCpuWait, 0, moe);
    expect(Part::kCombine, moe, moe);
    expect(Part::kDense, 5 * (layers - moe), layers - moe);
    expect(Part::kHead, 3, 1);
    EXPECT_EQ(operations, all - 2 * moe) << "all but the handshakes";
    if (graphs) {
      expect(Part::kLaunch, 0, 1);
      expect(Part::kRest, 0, 1);
    } else {
      EXPECT_EQ(time->parts[static_cast<size_t>(Part::kRest)].stamps, 0) << "all have a name";
    }
  }
}

TEST(StepMarks, AResidentStepHasNoPartOfTheHosts) {
  Loaded loaded = load(/*gib=*/-1, /*marked=*/true);
  StepMarks& marks = *marks_of(*loaded.model->backend);
  marks.mark(true);
  Sequence sequence = sequence_of(*loaded.model, 3);
  for (int i = 0; i < 3; ++i) {
    const int64_t bytes = loaded.device->memory().live_bytes();
    marks.begin_step();
    ASSERT_TRUE(sequence.step(1));
    const auto time = marks.end_step();
    ASSERT_TRUE(time) << time.error().message;
    EXPECT_EQ(loaded.device->memory().live_bytes(), bytes) << "no memory is taken for it";
    for (const Part part :
         {Part::kHandshake, Part::kWireWait, Part::kFetched, Part::kCpuWait, Part::kCombine}) {
      EXPECT_EQ(time->parts[static_cast<size_t>(part)].stamps, 0) << name_of(part);
    }
    EXPECT_EQ(time->parts[static_cast<size_t>(Part::kExperts)].stamps, moe_layers(loaded));
  }
}

TEST(StepMarks, AStampsCostIsMeasured) {
  Loaded loaded = load(/*gib=*/-1, /*marked=*/true);
  const size_t graphs = loaded.device->live_graphs();
  const auto seconds = marks_of(*loaded.model->backend)->stamp_seconds();
  ASSERT_TRUE(seconds) << seconds.error().message;
  EXPECT_NEAR(*seconds, 1e-9 * FakeDevice::kStamp, 1e-15);
  EXPECT_EQ(loaded.device->live_graphs(), graphs);
}

TEST(StepMarks, ARefusedCaptureLeavesNoStamps) {
  ThreadPool pool(1);
  FakeDevice* device = nullptr;
  const std::unique_ptr<kernels::Backend> backend = fake(pool, &device, /*marked=*/true);
  StepMarks& marks = *marks_of(*backend);
  marks.mark(true);
  auto& graphs = *dynamic_cast<device::Graphs*>(backend.get());
  device->fail_capture_in = 1;
  graphs.begin_capture();
  ASSERT_FALSE(graphs.end_capture());
  marks.begin_step();
  marks.next(Part::kInput);
  marks.launch(device::Graphs::Id{-1});
  ASSERT_TRUE(backend->synchronize());
  const auto time = marks.end_step();
  ASSERT_TRUE(time) << time.error().message;
  EXPECT_EQ(time->stamps, 3) << "input, launch and end";
  EXPECT_FALSE(time->captured);
}

TEST(StepMarks, AHostBackendHasNone) {
  ThreadPool pool(1);
  auto refused = make_marked_backend(kernels::make_reference_backend(pool));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kDevice);
  const auto host = kernels::make_reference_backend(pool);
  EXPECT_EQ(marks_of(*host), nullptr);
}

StepTime made_up() {
  StepTime step;
  step.parts[static_cast<size_t>(Part::kIndex)] = {30e-6, 2, 5};
  step.parts[static_cast<size_t>(Part::kSparseMla)] = {20e-6, 2, 2};
  step.parts[static_cast<size_t>(Part::kWireWait)] = {50e-6, 1, 0};
  step.parts[static_cast<size_t>(Part::kLaunch)] = {10e-6, 1, 0};
  step.seconds = 110e-6;
  step.stamps = 7;
  return step;
}

TEST(StepBreakdown, TakesStampsAndGapsOffThePartsAndLosesNothing) {
  StepBreakdown parts;
  parts.add(made_up(), 120e-6);
  parts.add(made_up(), 130e-6);
  Report report;
  parts.write(report, "a step", 100e-6, 2e-6);
  std::map<std::string, Row> rows;
  double sum = 0;
  for (const Row& row : report.rows) {
    ASSERT_TRUE(row.name.starts_with("a step: "));
    EXPECT_TRUE(rows.emplace(row.name.substr(8), row).second) << row.name << " twice";
  }
  const auto value = [&](const std::string& name) { return rows.at(name).value; };
  EXPECT_NEAR(value("attention: index"), 30 - 2 * 2 - 5 * 2, 1e-9);
  EXPECT_NEAR(value("attention: sparse MLA"), 20 - 2 * 2 - 2 * 2, 1e-9);
  EXPECT_NEAR(value("attention"), value("attention: index") + value("attention: sparse MLA"), 1e-9);
  EXPECT_NEAR(value("waiting for the wire"), 48, 1e-9);
  EXPECT_NEAR(value("bubbles: gaps between operations"), 7 * 2, 1e-9);
  EXPECT_NEAR(value("stamps"), 6 * 2, 1e-9);
  for (const char* name : {"attention", "waiting for the wire", "bubbles: launch of the graph",
                           "bubbles: gaps between operations", "stamps"})
    sum += value(name);
  EXPECT_NEAR(value("sum, of the step with stamps"), sum, 1e-9);
  EXPECT_NEAR(sum, 110, 1e-9);
  EXPECT_NEAR(rows.at("sum, of the step with stamps").bound, 125, 1e-9);
  EXPECT_NEAR(value("step with stamps"), 125, 1e-9);
  EXPECT_NEAR(value("step without"), 100, 1e-9);
  EXPECT_EQ(value("stamps of a step"), 7);
  EXPECT_NEAR(value("a stamp"), 2, 1e-9);
  EXPECT_FALSE(rows.contains("router")) << "a part that the step lacks";
  EXPECT_EQ(nlohmann::json::parse(report.json())["rows"].size(), report.rows.size());
}

void expect_parts(const Report& report, bool offloaded, const std::string& name_of_step) {
  std::map<std::string, Row> rows;
  for (const Row& row : report.rows) {
    if (row.name.starts_with(name_of_step + ": "))
      rows[row.name.substr(name_of_step.size() + 2)] = row;
  }
  for (const char* name :
       {"attention", "attention: projections", "attention: index", "attention: sparse MLA",
        "router", "experts on the device", "head and draw", "bubbles: gaps between operations",
        "sum, of the step with stamps", "step with stamps", "step without"})
    EXPECT_TRUE(rows.contains(name)) << name;
  for (const char* name : {"handshake: routes out, decision in", "waiting for the wire",
                           "fetched experts", "waiting for the CPU's experts", "combine",
                           "host: waiting for routes", "host: CPU computing", "wire busy"})
    EXPECT_EQ(rows.contains(name), offloaded) << name;
  EXPECT_EQ(rows["sum, of the step with stamps"].bound, rows["step with stamps"].value);
}

TEST(StepBreakdown, IsPartOfTheDecodeBench) {
  for (const bool offloaded : {false, true}) {
    Loaded loaded = load(offloaded ? 0 : -1, /*marked=*/true);
    const auto report =
        decode_bench(*loaded.model, {.context = 8, .tokens = 3}, {}, nullptr, CancelToken());
    ASSERT_TRUE(report) << report.error().message;
    expect_parts(*report, offloaded, "context 8, batch 1");
  }
}

TEST(StepBreakdown, IsRefusedWhereStepsAreNotCaptured) {
  for (const bool offloaded : {false, true}) {
    Loaded loaded = load(offloaded ? 0 : -1, /*marked=*/true, /*graphs=*/false);
    const auto report =
        decode_bench(*loaded.model, {.context = 8, .tokens = 3}, {}, nullptr, CancelToken());
    ASSERT_FALSE(report);
    EXPECT_NE(report.error().message.find("not captured"), std::string::npos);
  }
}

TEST(StepBreakdown, IsRefusedOnADeviceThatWaitsForTheHost) {
  session::LoadOptions options = options_of(/*gib=*/0, /*graphs=*/true);
  options.backend = [](ThreadPool& pool) {
    FakeDevice* device = nullptr;
    auto made = fake(pool, &device, /*marked=*/true);
    device->concurrent_ = false;
    return made;
  };
  auto loaded = session::LoadedModel::load(
      options, [](int64_t, int64_t) {}, CancelToken());
  ASSERT_TRUE(loaded) << loaded.error().message;
  const auto report =
      decode_bench(**loaded, {.context = 8, .tokens = 3}, {}, nullptr, CancelToken());
  ASSERT_FALSE(report);
  EXPECT_NE(report.error().message.find("not captured"), std::string::npos);
}

TEST(StepBreakdown, IsPartOfTheOffloadBench) {
  const std::string small = longshore::source_dir() + "/tests/data/conformance/conf-fp8";
  Loaded loaded = load(/*gib=*/0, /*marked=*/true, /*graphs=*/true, small);
  OffloadBenchOptions options;
  options.routing = {"uniform"};
  options.budgets = {0.3};
  options.batches = {1};
  options.context = 8;
  options.steps = 3;
  options.prefill = false;
  options.grouped = false;
  const auto report = offload_bench(*loaded.model, options, CancelToken());
  ASSERT_TRUE(report) << report.error().message;
  Report parts;
  const std::string name = "uniform, 30 % resident, batch 1: parts";
  for (const Row& row : report->rows) {
    if (row.name.starts_with(name)) parts.rows.push_back(row);
  }
  expect_parts(parts, /*offloaded=*/true, name);
}

TEST(StepBreakdown, HasRealTimesWithinTheStepsOnAGpu) {
  for (const double gib : {-1.0, 0.0, 0.01}) {
    auto gpu = kernels::make_cuda_backend({});
    if (!gpu) GTEST_SKIP() << "skipped: " << gpu.error().message;
    auto marked = make_marked_backend(std::move(*gpu));
    ASSERT_TRUE(marked) << marked.error().message;
    session::LoadOptions options = options_of(gib, /*graphs=*/true);
    options.cpu_isa = "auto";
    options.threads = 4;
    options.backend = [&](ThreadPool&) { return std::move(*marked); };
    const auto loaded = session::LoadedModel::load(
        options, [](int64_t, int64_t) {}, CancelToken());
    ASSERT_TRUE(loaded) << loaded.error().message;
    name_parts(*(*loaded)->backend, (*loaded)->model->weights());
    StepMarks& marks = *marks_of(*(*loaded)->backend);
    const auto stamp = marks.stamp_seconds();
    ASSERT_TRUE(stamp) << stamp.error().message;
    EXPECT_GT(*stamp, 1e-7);
    EXPECT_LT(*stamp, 2e-5);
    marks.mark(true);
    Sequence sequence = sequence_of(**loaded, 60);
    StepBreakdown parts;
    PartTime all[kParts];
    for (int i = 0; i < 64; ++i) {
      marks.begin_step();
      const Stopwatch watch;
      ASSERT_TRUE(sequence.step(1));
      const double wall = watch.seconds();
      const auto step = marks.end_step();
      ASSERT_TRUE(step) << step.error().message;
      EXPECT_GT(step->seconds, 0);
      EXPECT_LT(step->seconds, wall + 5e-6) << "two clocks, one of them in steps of 1 us";
      double sum = 0;
      for (size_t p = 0; p < kParts; ++p) {
        EXPECT_GE(step->parts[p].seconds, 0) << name_of(static_cast<Part>(p));
        sum += step->parts[p].seconds;
        all[p].seconds += step->parts[p].seconds;
        all[p].stamps += step->parts[p].stamps;
      }
      EXPECT_NEAR(sum, step->seconds, 1e-9);
    }
    for (size_t p = 0; p < kParts; ++p) {
      EXPECT_EQ(all[p].seconds > 0, all[p].stamps > 0) << name_of(static_cast<Part>(p));
    }
    EXPECT_GT(all[static_cast<size_t>(Part::kSparseMla)].stamps, 0);
    EXPECT_EQ(all[static_cast<size_t>(Part::kCpuWait)].stamps > 0, gib >= 0);
  }
}

}  // namespace
}  // namespace longshore::bench
