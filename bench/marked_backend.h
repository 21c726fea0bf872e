// A device whose steps tell where their time goes: a backend that hands everything on to another
// one and puts stamps between operations while StepMarks says so.
#pragma once

#include <memory>

#include "bench/step_marks.h"
#include "kernels/backend.h"
#include "model/weights.h"

namespace longshore::bench {

// inner: a device with graphs and RouteExchange. kDevice: it has none, or no clock; kMemory.
[[nodiscard]] Result<std::unique_ptr<kernels::Backend>> make_marked_backend(
    std::unique_ptr<kernels::Backend> inner);

// Of a backend that make_marked_backend() made; nullptr: another one. The backend owns them.
[[nodiscard]] StepMarks* marks_of(kernels::Backend& backend);

// Which part a product or a norm belongs to is known by its weights: those of the model that the
// marked backend runs from now on. They outlive its use.
void name_parts(kernels::Backend& marked, const model::ModelWeights& weights);

}  // namespace longshore::bench
