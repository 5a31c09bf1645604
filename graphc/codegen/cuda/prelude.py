"""What stands before the kernels of every CUDA text: small device functions, and no headers.

The same text is read by nvcc, by NVRTC (which has no headers) and, with `cuda_on_cpu.h` before it,
by a C++ compiler for the CPU. There a `Buffer` is a pointer that checks every index.
"""

from __future__ import annotations

from graphc.kernel.philox import (
    DRAW_BITS,
    DRAWS,
    HIGH_STEP,
    KEY_STEP,
    MULTIPLIER,
    ROUNDS,
    STREAM_STEP,
)

_POINTERS = """\
#ifndef GRAPHC_ON_CPU
// Arguments of kernels. On a GPU they are plain pointers.
template <class T> struct Pointer { typedef T* Shared; typedef T* __restrict__ Alone; };
template <class T> using Buffer = typename Pointer<T>::Shared;
template <class T> using AloneBuffer = typename Pointer<T>::Alone;
template <class T> using Tile = T*;

extern __shared__ __align__(16) unsigned char graphc_shared[];

// `count` elements of the block's shared memory, from a byte on.
template <class T> __device__ __forceinline__ Tile<T> tile(int byte, int count) {
  return reinterpret_cast<T*>(graphc_shared + byte);
}

#ifndef __CUDACC_RTC__
// An argument: `count` elements from a byte of a slot on.
template <class T> Buffer<T> placed(void* slot, long long byte, long long count, const char* name) {
  return (T*)((char*)slot + byte);
}

// Let a kernel have more shared memory than every kernel may.
template <class K> void graphc_allow_shared(K kernel, int bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
#endif
#endif
"""

_TOGETHER = """\
// Neighbours in memory that are read or written at once, the first at a multiple of their bytes.
template <int COUNT> struct alignas(4 * COUNT) Together {
  float at[COUNT];
  __device__ __forceinline__ float& operator[](int lane) { return at[lane]; }
  __device__ __forceinline__ float operator[](int lane) const { return at[lane]; }
};
using Two = Together<2>;
using Four = Together<4>;
#ifndef GRAPHC_ON_CPU
template <class I> __device__ __forceinline__ Four four(const float* from, I at) {
  return *reinterpret_cast<const Four*>(from + at);
}
template <int COUNT, class I>
__device__ __forceinline__ void put(float* to, I at, const Together<COUNT>& value) {
  *reinterpret_cast<Together<COUNT>*>(to + at) = value;
}
#else
template <class B> __forceinline__ Four four(const B& from, long long at) {
  Four value;
  memcpy(&value, from.template at<4>(at), sizeof value);
  return value;
}
template <int COUNT, class B>
__forceinline__ void put(const B& to, long long at, const Together<COUNT>& value) {
  memcpy(to.template at<COUNT>(at), &value, sizeof value);
}
#endif
"""

_COPIES = """\
#ifndef GRAPHC_ON_CPU
// Copy COUNT elements to shared memory while the thread goes on; zeros where `inside` is false.
template <int COUNT, class T, class I>
__device__ __forceinline__ void copy_async(T* to, int place, const T* from, I at, bool inside) {
  const unsigned target = (unsigned)__cvta_generic_to_shared(to + place);
  const T* source = inside ? from + at : from;
  const int bytes = inside ? COUNT * (int)sizeof(T) : 0;
  if (COUNT * sizeof(T) == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(target), "l"(source), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(target), "l"(source), "n"(COUNT * sizeof(T)), "r"(bytes) : "memory");
}

// What a thread has copied since the last end is one group.
__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;"); }

// Until all groups but the last LEFT are there; other threads see them after a barrier.
template <int LEFT> __device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory");
}

// The nearest number with 10 bits after the point.
__device__ __forceinline__ unsigned to_tf32(float value) {
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}

// sum += a b of a warp: a is 16 x 8, b is 8 x 8, in fragments as the PTX manual shares them.
__device__ __forceinline__ void multiply_16x8x8(
    float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
"""

_REALS = """\
__device__ __forceinline__ float infinity(float) { return __int_as_float(0x7f800000); }
__device__ __forceinline__ double infinity(double) {
  return __longlong_as_double(0x7ff0000000000000LL);
}
__device__ __forceinline__ float not_a_number(float) { return __int_as_float(0x7fffffff); }
__device__ __forceinline__ double not_a_number(double) {
  return __longlong_as_double(0x7fffffffffffffffLL);
}

// Smallest and largest: a nan never wins.
__device__ __forceinline__ float least(float a, float b) { return fminf(a, b); }
__device__ __forceinline__ double least(double a, double b) { return fmin(a, b); }
template <class T> __device__ __forceinline__ T least(T a, T b) { return b < a ? b : a; }
__device__ __forceinline__ float most(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double most(double a, double b) { return fmax(a, b); }
template <class T> __device__ __forceinline__ T most(T a, T b) { return b > a ? b : a; }

template <class T> __device__ __forceinline__ T magnitude(T a) { return a < T(0) ? T(-a) : a; }
__device__ __forceinline__ float magnitude(float a) { return fabsf(a); }
__device__ __forceinline__ double magnitude(double a) { return fabs(a); }
template <class T> __device__ __forceinline__ T sign_of(T a) {
  return a > T(0) ? T(1) : a < T(0) ? T(-1) : a;
}
__device__ __forceinline__ float sigmoid(float a) { return 1.0f / (1.0f + expf(-a)); }
__device__ __forceinline__ double sigmoid(double a) { return 1.0 / (1.0 + exp(-a)); }
"""

_INTEGERS = """\
// Quotient and remainder rounded towards minus infinity.
template <class T> __device__ __forceinline__ T floor_quotient(T a, T b) {
  const T q = T(a / b);
  return T(q - T(a % b != 0 && (a < 0) != (b < 0)));
}
template <class T> __device__ __forceinline__ T floor_remainder(T a, T b) {
  const T r = T(a % b);
  return T(r != 0 && (r < 0) != (b < 0) ? r + b : r);
}

// A real as an integer: truncated, the nearest one where it is out of range, 0 for nan.
template <class R> __device__ __forceinline__ long long to_int64(R a) {
  if (a != a) return 0;
  if (a >= R(9223372036854775808.0)) return 9223372036854775807LL;
  if (a <= R(-9223372036854775808.0)) return -9223372036854775807LL - 1;
  return (long long)a;
}
template <class T, class R>
__device__ __forceinline__ T to_integer(R a, long long low, long long high) {
  return T(least(most(to_int64(a), low), high));
}
"""

_RANDOM = f"""\
// Philox-2x32-10 (Salmon, Moraes, Dror and Shaw, 2011): 16 random bits of (key, stream, counter).
__device__ __forceinline__ long long random_bits(
    long long key, long long stream, long long counter) {{
  const unsigned long long block = (unsigned long long)counter / {DRAWS};
  unsigned first = (unsigned)block;
  unsigned second = (unsigned)(block >> 32);
  unsigned word = (unsigned)key + (unsigned)((unsigned long long)key >> 32) * 0x{HIGH_STEP:08x}u
      + (unsigned)stream * 0x{STREAM_STEP:08x}u;
#pragma unroll
  for (int turn = 0; turn < {ROUNDS}; ++turn) {{
    const unsigned long long product = (unsigned long long)first * 0x{MULTIPLIER:08x}u;
    first = (unsigned)(product >> 32) ^ word ^ second;
    second = (unsigned)product;
    word += 0x{KEY_STEP:08x}u;
  }}
  const unsigned place = (unsigned)counter % {DRAWS};
  return ((place & 2 ? second : first) >> place % 2 * {DRAW_BITS}) & 0xffff;
}}
"""

_REDUCTIONS = """\
struct Sum {
  template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct Product {
  template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a * b; }
};
struct Least {
  template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return least(a, b); }
};
struct Most {
  template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return most(a, b); }
};

// All threads of a block get the same bits: partners of an exchange join the same two numbers.
template <class T, class Join> __device__ __forceinline__ T join_warp(T value, Join join) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes >>= 1)
    value = join(value, __shfl_xor_sync(0xffffffffu, value, lanes));
  return value;
}

// The join of one value of each thread. `partial` has room for one value of each warp.
template <class T, class Join>
__device__ __forceinline__ T join_block(T value, T empty, Join join, Tile<T> partial) {
  value = join_warp(value, join);
  if (blockDim.x == 32) return value;
  const int lane = threadIdx.x % 32;
  if (lane == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  value = join_warp(lane < blockDim.x / 32 ? partial[lane] : empty, join);
  __syncthreads();  // before the next use of `partial`
  return value;
}

// The best key of a sweep so far, where it was found, and what goes with it.
template <class K, class C> struct Found {
  K key;
  long long place;
  C companion;
};
template <int SIGN, class K, class C>
__device__ __forceinline__ Found<K, C> first_best(const Found<K, C>& a, const Found<K, C>& b) {
  const bool better = SIGN > 0 ? b.key > a.key : b.key < a.key;
  return better || (b.key == a.key && b.place < a.place) ? b : a;
}
template <int SIGN, class K, class C>
__device__ __forceinline__ Found<K, C> first_best_of_warp(Found<K, C> found) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes >>= 1) {
    Found<K, C> other;
    other.key = __shfl_xor_sync(0xffffffffu, found.key, lanes);
    other.place = __shfl_xor_sync(0xffffffffu, found.place, lanes);
    other.companion = __shfl_xor_sync(0xffffffffu, found.companion, lanes);
    found = first_best<SIGN>(found, other);
  }
  return found;
}
template <int SIGN, class K, class C>
__device__ __forceinline__ Found<K, C> first_best_of_block(
    Found<K, C> found, Found<K, C> empty, Tile<Found<K, C>> partial) {
  found = first_best_of_warp<SIGN>(found);
  if (blockDim.x == 32) return found;
  const int lane = threadIdx.x % 32;
  if (lane == 0) partial[threadIdx.x / 32] = found;
  __syncthreads();
  if (lane < blockDim.x / 32) found = partial[lane];
  else found = empty;
  found = first_best_of_warp<SIGN>(found);
  __syncthreads();
  return found;
}

// Note the first check that fails: its number in the net, and the number it shows.
__device__ __forceinline__ void report(long long* error, int check, long long value) {
  const unsigned long long number = check;
  if (atomicCAS((unsigned long long*)error, 0ull, number) == 0ull) error[1] = value;
}
"""

PRELUDE = "\n".join((_POINTERS, _TOGETHER, _COPIES, _REALS, _INTEGERS, _RANDOM, _REDUCTIONS))
