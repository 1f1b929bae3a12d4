// exp, 1 / x and log(1 + u) of single values on the device, as runtime/pack.hpp has them of packs. Where kernels are
// compiled for the host both are there, and these are preferred for single values.
#pragma once

#include <cmath>

#include "runtime/level.hpp"

namespace screening::SCREENING_LEVEL {

// e^x; beyond 80 (700 for double) in size x stays there, which no gate tells from infinity and whose products do not
// overflow. A NaN stays one.
SCREENING_HD float exponential(float x) {
  x = x > 80.0f ? 80.0f : x;
  x = x < -80.0f ? -80.0f : x;
  return expf(x);
}
SCREENING_HD double exponential(double x) {
  x = x > 700.0 ? 700.0 : x;
  x = x < -700.0 ? -700.0 : x;
  return exp(x);
}

SCREENING_HD float reciprocal(float x) { return 1.0f / x; }
SCREENING_HD double reciprocal(double x) { return 1.0 / x; }

// log(1 + u) for u in [0, 1], given ratio = u / (2 + u). Float: 2 atanh(ratio), a polynomial in its square (4e-9
// relative), a third of the instructions of log1pf.
SCREENING_HD float log_of_one_plus(float, float ratio) {
  const float t = ratio * ratio;
  float p = t * 1.4087332785e-1f + 1.3980713487e-1f;
  p = p * t + 2.0012426376e-1f;
  p = p * t + 3.3333158493e-1f;
  p = p * t + 1.0f;
  return (ratio + ratio) * p;
}
SCREENING_HD double log_of_one_plus(double u, double) { return log1p(u); }

}  // namespace screening::SCREENING_LEVEL
