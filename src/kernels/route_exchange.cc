#include "kernels/route_exchange.h"

#include "kernels/backend.h"

namespace longshore::kernels {

RouteExchange* RouteExchange::of(Backend& backend) {
  return dynamic_cast<RouteExchange*>(&backend);
}

}  // namespace longshore::kernels
