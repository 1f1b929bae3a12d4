// Stands where the CUDA toolkit's header would: with this folder on the include path, kernels are compiled for the
// host.
#pragma once

#include "cuda_on_host.hpp"
