#include <vector>

#include "kernels/reference/backend.h"
#include "kernels/scalar/ops.h"
#include "kernels/scalar/rows.h"
#include "kernels/validate.h"

namespace longshore::kernels::reference {
namespace {

using scalar::dot;

using Floats = std::vector<float>;

Floats make(int64_t n) {
  return Floats(static_cast<size_t>(n));
}

constexpr int64_t kRowGrain = 8;

// hidden[i] = silu(gate x_i) * up x_i for the tokens x [count, in] fp32 and the first `rows` rows;
// hidden [count, intermediate].
void gate_up(ThreadPool& pool, const ExpertView& expert, const Floats& x, int64_t count,
             int64_t rows, Floats& hidden) {
  const int64_t in = expert.gate.in;
  const int64_t width = expert.gate.out;
  pool.parallel_for(rows, kRowGrain, [&](int64_t begin, int64_t end, int) {
    Floats gate = make(in);
    Floats up = make(in);
    for (int64_t o = begin; o < end; ++o) {
      scalar::weight_row(expert.gate, o, gate.data());
      scalar::weight_row(expert.up, o, up.data());
      for (int64_t i = 0; i < count; ++i) {
        const float* row = x.data() + i * in;
        hidden[static_cast<size_t>(i * width + o)] =
            scalar::silu(dot(gate.data(), row, in)) * dot(up.data(), row, in);
      }
    }
  });
}

// routed[route, o] = down[o] . hidden[i], route = routes[i].
void down(ThreadPool& pool, const WeightView& w, const Floats& hidden,
          const std::vector<int64_t>& routes, Floats& routed) {
  pool.parallel_for(w.out, kRowGrain, [&](int64_t begin, int64_t end, int) {
    Floats row = make(w.in);
    for (int64_t o = begin; o < end; ++o) {
      scalar::weight_row(w, o, row.data());
      for (size_t i = 0; i < routes.size(); ++i) {
        routed[static_cast<size_t>(routes[i] * w.out + o)] =
            dot(row.data(), hidden.data() + static_cast<int64_t>(i) * w.in, w.in);
      }
    }
  });
}

}  // namespace

void ReferenceBackend::router(const RouterParams& p) {
  validate(p);
  scalar::router(pool_, p);
}

void ReferenceBackend::experts(const ExpertsParams& p) {
  validate(p);
  if (p.meanwhile != nullptr) (*p.meanwhile)();
  const int64_t width = p.x.cols;
  const int64_t route_count = p.x.rows * p.top_k;
  std::vector<std::vector<int64_t>> routes(static_cast<size_t>(p.num_experts));
  for (int64_t r = 0; r < route_count; ++r) {
    if (p.ids[r] >= 0) routes[static_cast<size_t>(p.ids[r])].push_back(r);
  }
  Floats routed = make(route_count * width);
  for (size_t e = 0; e < routes.size(); ++e) {
    if (routes[e].empty()) continue;
    const auto count = static_cast<int64_t>(routes[e].size());
    Floats x = make(count * width);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = routes[e][static_cast<size_t>(i)] / p.top_k;
      scalar::to_float(p.x.row(token), p.x.dtype, width, x.data() + i * width);
    }
    // What is not computed of a part is 0 and adds nothing.
    Floats hidden = make(count * p.shape.gate.out);
    const bool part = static_cast<int32_t>(e) == p.part.expert;
    gate_up(pool_, p.experts[e], x, count, part ? p.part.rows : p.shape.gate.out, hidden);
    down(pool_, p.experts[e].down, hidden, routes[e], routed);
  }
  for (int64_t r = 0; r < route_count; ++r) {
    if (p.ids[r] < 0) continue;
    auto* y = p.y.row_as<float>(r / p.top_k);
    const float* row = routed.data() + r * width;
    for (int64_t i = 0; i < width; ++i) y[i] += p.weights[r] * row[i];
  }
}

}  // namespace longshore::kernels::reference
