// Which processor the including file is compiled for. A kernel file is compiled once a level, each time in a
// namespace of that name; math/ headers follow, so that no two levels share a symbol.
#pragma once

#ifndef SCREENING_LEVEL
#define SCREENING_LEVEL baseline
#endif

#ifdef __CUDACC__
#define SCREENING_HD __host__ __device__ __forceinline__
#else
#define SCREENING_HD inline
#endif
