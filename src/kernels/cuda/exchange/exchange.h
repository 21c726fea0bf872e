// kernels::RouteExchange on a CUDA device.
#pragma once

#include "kernels/cuda/ops.h"
#include "kernels/route_exchange.h"

namespace longshore::kernels::cuda {

// counter: in device memory, 0 between calls.
void publish_routes(Context& context, const PublishRoutesParams& params, unsigned* counter);
void take_routes(Context& context, const TakeRoutesParams& params);
// said: in device memory, one call's until the next.
void add_when(Context& context, const AddParams& params, const int32_t* word, int32_t* said);

}  // namespace longshore::kernels::cuda
