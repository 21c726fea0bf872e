// kernels::RouteExchange on a CUDA device.
#pragma once

#include "kernels/cuda/ops.h"
#include "kernels/route_exchange.h"

namespace longshore::kernels::cuda {

// counter: in device memory, 0 between calls.
void publish_routes(Context& context, const PublishRoutesParams& params, unsigned* counter);
void take_routes(Context& context, const TakeRoutesParams& params);
void add_when(Context& context, const AddParams& params, const int32_t* word);

}  // namespace longshore::kernels::cuda
