// The part of cuBLASLt and cuDNN that graphc calls, computing on memory of this process.
//
// Signatures, values of enumerations and rules of arguments are those of NVIDIA's reference for
// cuBLAS 12 and cuDNN 9. Every argument is checked as strictly as the reference allows; what is
// wrong is kept as a sentence for the test that asks. Tests may make a function fail, results be
// wrong, and calls take a given time.

#include <cstdint>
#include <cstring>
#include <map>
#include <string>

namespace {

std::map<std::string, int> told_to_fail;
std::map<std::string, long long> calls;
std::string complaint;
double seconds = 0, seconds_a_call = 0.0005;
float wrong_by = 0;
std::map<void*, int> living;  // handles and descriptors, by what they are

enum Kind { LT_HANDLE = 1, LT_DESC, LT_LAYOUT, LT_PREF, DNN_HANDLE, DNN_TENSOR, DNN_FILTER, DNN_CONV };

bool is(const void* handle, Kind kind) {
  auto found = living.find(const_cast<void*>(handle));
  return found != living.end() && found->second == kind;
}
template <class T>
int make(void** made, Kind kind, const T& value, int bad) {
  if (!made) return bad;
  *made = new T(value);
  living[*made] = kind;
  return 0;
}
template <class T>
int destroy(void* handle, Kind kind, int bad) {
  if (!is(handle, kind)) return bad;
  living.erase(handle);
  delete static_cast<T*>(handle);
  return 0;
}
int say(int status, const std::string& why) {
  complaint = why;
  return status;
}
bool aligned(const void* pointer, size_t to) { return reinterpret_cast<uintptr_t>(pointer) % to == 0; }

// What stands at the head of every function.
#define BEGIN(name)                                      \
  ++calls[#name];                                        \
  if (told_to_fail.count(#name)) return told_to_fail[#name]

}  // namespace

extern "C" {

void stand_in_reset() {
  told_to_fail.clear();
  calls.clear();
  complaint.clear();
  seconds = 0;
  seconds_a_call = 0.0005;
  wrong_by = 0;
}
void stand_in_fail(const char* function, int status) { told_to_fail[function] = status; }
void stand_in_wrong(float by) { wrong_by = by; }
void stand_in_time(double each) { seconds_a_call = each; }
double stand_in_seconds() { return seconds; }
long long stand_in_calls(const char* function) { return calls[function]; }
const char* stand_in_complaint() { return complaint.c_str(); }
long long stand_in_living() { return (long long)living.size(); }

// -- cuBLASLt -------------------------------------------------------------------------------------

enum {
  CUBLAS_SUCCESS = 0,
  CUBLAS_NOT_INITIALIZED = 1,
  CUBLAS_INVALID_VALUE = 7,
  CUBLAS_NOT_SUPPORTED = 15,
};
enum { R_32F = 0, R_64F = 1 };
enum { COMPUTE_32F = 68, COMPUTE_64F = 70, COMPUTE_32F_FAST_TF32 = 77 };

struct Desc {
  int compute, scale, trans_a, trans_b;
  uint32_t epilogue;
  void* bias;
};
struct LtLayout {
  int type;
  uint64_t rows, columns;
  int64_t leading;
  int32_t count;
  int64_t step;
};
struct Preference {
  uint64_t room;
  uint32_t reduction, alignment[4];
};
struct Algo {
  uint64_t data[8];
};
struct Heuristic {
  Algo algo;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};
const uint64_t MARK = 0x6772617068630000;
const size_t LT_WORKSPACE = 4096;

const char* cublasLtGetStatusName(int status) {
  switch (status) {
    case CUBLAS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case 13: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return nullptr;
  }
}
size_t cublasLtGetVersion() { return 120903; }
int cublasLtCreate(void** handle) {
  BEGIN(cublasLtCreate);
  return make(handle, LT_HANDLE, int(0), CUBLAS_INVALID_VALUE);
}
int cublasLtDestroy(void* handle) { return destroy<int>(handle, LT_HANDLE, CUBLAS_INVALID_VALUE); }

int cublasLtMatmulDescCreate(void** made, int compute, int scale) {
  BEGIN(cublasLtMatmulDescCreate);
  const bool fits = (compute == COMPUTE_64F && scale == R_64F) ||
                    ((compute == COMPUTE_32F || compute == COMPUTE_32F_FAST_TF32) && scale == R_32F);
  if (!fits) return say(CUBLAS_INVALID_VALUE, "compute and scale type do not fit");
  return make(made, LT_DESC, Desc{compute, scale, 0, 0, 1, nullptr}, CUBLAS_INVALID_VALUE);
}
int cublasLtMatmulDescDestroy(void* desc) { return destroy<Desc>(desc, LT_DESC, CUBLAS_INVALID_VALUE); }
int cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, size_t size) {
  BEGIN(cublasLtMatmulDescSetAttribute);
  if (!is(handle, LT_DESC) || !value) return say(CUBLAS_INVALID_VALUE, "no description");
  Desc& desc = *static_cast<Desc*>(handle);
  void* target = nullptr;
  size_t wanted = 4;
  if (attribute == 3) target = &desc.trans_a;
  if (attribute == 4) target = &desc.trans_b;
  if (attribute == 7) target = &desc.epilogue;
  if (attribute == 8) target = &desc.bias, wanted = 8;
  if (!target || size != wanted) return say(CUBLAS_INVALID_VALUE, "attribute of a description");
  memcpy(target, value, size);
  return 0;
}

int cublasLtMatrixLayoutCreate(void** made, int type, uint64_t rows, uint64_t columns, int64_t leading) {
  BEGIN(cublasLtMatrixLayoutCreate);
  if ((type != R_32F && type != R_64F) || !rows || !columns || leading < (int64_t)rows)
    return say(CUBLAS_INVALID_VALUE, "layout of a matrix");
  return make(made, LT_LAYOUT, LtLayout{type, rows, columns, leading, 1, 0}, CUBLAS_INVALID_VALUE);
}
int cublasLtMatrixLayoutDestroy(void* layout) {
  return destroy<LtLayout>(layout, LT_LAYOUT, CUBLAS_INVALID_VALUE);
}
int cublasLtMatrixLayoutSetAttribute(void* handle, int attribute, const void* value, size_t size) {
  BEGIN(cublasLtMatrixLayoutSetAttribute);
  if (!is(handle, LT_LAYOUT) || !value) return say(CUBLAS_INVALID_VALUE, "no layout");
  LtLayout& layout = *static_cast<LtLayout*>(handle);
  if (attribute == 5 && size == 4) memcpy(&layout.count, value, 4);
  else if (attribute == 6 && size == 8) memcpy(&layout.step, value, 8);
  else return say(CUBLAS_INVALID_VALUE, "attribute of a layout");
  return layout.count > 0 ? 0 : say(CUBLAS_INVALID_VALUE, "count of a batch");
}

int cublasLtMatmulPreferenceCreate(void** made) {
  BEGIN(cublasLtMatmulPreferenceCreate);
  return make(made, LT_PREF, Preference{0, 7, {256, 256, 256, 256}}, CUBLAS_INVALID_VALUE);
}
int cublasLtMatmulPreferenceDestroy(void* preference) {
  return destroy<Preference>(preference, LT_PREF, CUBLAS_INVALID_VALUE);
}
int cublasLtMatmulPreferenceSetAttribute(void* handle, int attribute, const void* value, size_t size) {
  BEGIN(cublasLtMatmulPreferenceSetAttribute);
  if (!is(handle, LT_PREF) || !value) return say(CUBLAS_INVALID_VALUE, "no preference");
  Preference& preference = *static_cast<Preference*>(handle);
  if (attribute == 1 && size == 8) memcpy(&preference.room, value, 8);
  else if (attribute == 3 && size == 4) memcpy(&preference.reduction, value, 4);
  else if (attribute >= 5 && attribute <= 8 && size == 4) {
    memcpy(&preference.alignment[attribute - 5], value, 4);
    const uint32_t given = preference.alignment[attribute - 5];
    if (!given || (given & (given - 1))) return say(CUBLAS_INVALID_VALUE, "an alignment");
  } else return say(CUBLAS_INVALID_VALUE, "attribute of a preference");
  return 0;
}

// Whether the matrices of a product fit together.
static int fits(const Desc& desc, const LtLayout& a, const LtLayout& b, const LtLayout& c,
                const LtLayout& d) {
  const uint64_t m = desc.trans_a ? a.columns : a.rows, k = desc.trans_a ? a.rows : a.columns;
  const uint64_t n = desc.trans_b ? b.rows : b.columns, other = desc.trans_b ? b.columns : b.rows;
  if (k != other || d.rows != m || d.columns != n || c.rows != m || c.columns != n)
    return say(CUBLAS_INVALID_VALUE, "extents of matrices");
  if (a.type != desc.scale || b.type != a.type || c.type != a.type || d.type != a.type)
    return say(CUBLAS_INVALID_VALUE, "types of matrices");
  if (a.count != d.count || b.count != d.count || c.count != d.count)
    return say(CUBLAS_INVALID_VALUE, "counts of batches");
  if (desc.epilogue != 1 && desc.epilogue != 2 && desc.epilogue != 4 && desc.epilogue != 6)
    return say(CUBLAS_INVALID_VALUE, "epilogue");
  return 0;
}

int cublasLtMatmulAlgoGetHeuristic(void* handle, void* desc, void* a, void* b, void* c, void* d,
                                   void* preference, int wanted, Heuristic* found, int* count) {
  BEGIN(cublasLtMatmulAlgoGetHeuristic);
  if (!is(handle, LT_HANDLE)) return CUBLAS_NOT_INITIALIZED;
  if (!is(desc, LT_DESC) || !is(preference, LT_PREF) || wanted < 1 || !found || !count)
    return say(CUBLAS_INVALID_VALUE, "arguments of the heuristic");
  for (void* layout : {a, b, c, d})
    if (!is(layout, LT_LAYOUT)) return say(CUBLAS_INVALID_VALUE, "a layout of the heuristic");
  const Desc& of = *static_cast<Desc*>(desc);
  const int failed = fits(of, *static_cast<LtLayout*>(a), *static_cast<LtLayout*>(b),
                          *static_cast<LtLayout*>(c), *static_cast<LtLayout*>(d));
  if (failed) return failed;
  const Preference& wish = *static_cast<Preference*>(preference);
  if (wish.reduction & 1) return say(CUBLAS_INVALID_VALUE, "sums in place vary from run to run");
  *count = 0;
  for (int number = 0; number < 2 && *count < wanted; ++number) {  // the second wants memory
    const size_t need = number ? LT_WORKSPACE : 0;
    if (need > wish.room) continue;
    Heuristic& one = found[(*count)++];
    memset(&one, 0, sizeof one);
    one.algo.data[0] = MARK + number;
    for (int i = 0; i < 4; ++i) one.algo.data[1 + i] = wish.alignment[i];
    one.workspace = need;
    one.waves = 1;
  }
  return 0;
}

}  // extern "C"

template <class T>
static void multiply(const Desc& desc, T alpha, const T* a, const LtLayout& la, const T* b,
                     const LtLayout& lb, T beta, const T* c, const LtLayout& lc, T* d,
                     const LtLayout& ld) {
  const int64_t k = desc.trans_a ? la.rows : la.columns;
  for (int batch = 0; batch < ld.count; ++batch, a += la.step, b += lb.step, c += lc.step, d += ld.step)
    for (int64_t j = 0; j < (int64_t)ld.columns; ++j)
      for (int64_t i = 0; i < (int64_t)ld.rows; ++i) {
        double sum = 0;
        for (int64_t t = 0; t < k; ++t)
          sum += double(desc.trans_a ? a[t + i * la.leading] : a[i + t * la.leading]) *
                 double(desc.trans_b ? b[j + t * lb.leading] : b[t + j * lb.leading]);
        T value = T(alpha * sum);
        if (beta != 0) value += beta * c[i + j * lc.leading];
        if (desc.epilogue & 4) value += static_cast<const T*>(desc.bias)[i];
        if (desc.epilogue & 2) value = value > 0 ? value : 0;
        d[i + j * ld.leading] = value + T(wrong_by);
      }
}

extern "C" {

int cublasLtMatmul(void* handle, void* desc, const void* alpha, const void* a, void* la,
                   const void* b, void* lb, const void* beta, const void* c, void* lc, void* d,
                   void* ld, const Algo* algo, void* workspace, size_t size, void* stream) {
  BEGIN(cublasLtMatmul);
  if (!is(handle, LT_HANDLE)) return CUBLAS_NOT_INITIALIZED;
  if (!is(desc, LT_DESC)) return say(CUBLAS_INVALID_VALUE, "no description");
  for (void* layout : {la, lb, lc, ld})
    if (!is(layout, LT_LAYOUT)) return say(CUBLAS_INVALID_VALUE, "a layout of the product");
  if (!alpha || !beta || !a || !b || !c || !d || !algo) return say(CUBLAS_INVALID_VALUE, "a null");
  const Desc& of = *static_cast<Desc*>(desc);
  const LtLayout &A = *static_cast<LtLayout*>(la), &B = *static_cast<LtLayout*>(lb),
                 &C = *static_cast<LtLayout*>(lc), &D = *static_cast<LtLayout*>(ld);
  const int failed = fits(of, A, B, C, D);
  if (failed) return failed;
  if ((algo->data[0] & ~uint64_t(1)) != MARK) return say(CUBLAS_INVALID_VALUE, "no algorithm");
  const size_t need = algo->data[0] & 1 ? LT_WORKSPACE : 0;
  if (size < need || (need && (!workspace || !aligned(workspace, 256))))
    return say(CUBLAS_INVALID_VALUE, "workspace of a product");
  const void* pointers[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if (!aligned(pointers[i], algo->data[1 + i])) return say(CUBLAS_INVALID_VALUE, "alignment");
  if (c == d && C.leading != D.leading) return say(CUBLAS_INVALID_VALUE, "in place");
  if ((of.epilogue & 4) && !of.bias) return say(CUBLAS_INVALID_VALUE, "no bias");
  if (stream != (void*)7) return say(CUBLAS_INVALID_VALUE, "another stream");
  if (need) memset(workspace, 0xFF, need);
  seconds += seconds_a_call;
  if (of.scale == R_64F)
    multiply(of, *(const double*)alpha, (const double*)a, A, (const double*)b, B,
             *(const double*)beta, (const double*)c, C, (double*)d, D);
  else
    multiply(of, *(const float*)alpha, (const float*)a, A, (const float*)b, B, *(const float*)beta,
             (const float*)c, C, (float*)d, D);
  return 0;
}

// -- cuDNN ----------------------------------------------------------------------------------------

enum {
  DNN_NOT_INITIALIZED = 1001,
  DNN_BAD_PARAM = 2000,
  DNN_NOT_SUPPORTED = 3000,
  DNN_EXECUTION_FAILED = 5000,
};

struct DnnHandle {
  void* stream;
};
struct Tensor {
  int type, n, c, h, w, sn, sc, sh, sw;
};
struct Filter {
  int type, format, k, c, h, w;
};
struct Conv {
  int pad[2], stride[2], dilation[2], mode, type, groups, math;
};
const size_t DNN_WORKSPACE = 8192;

const char* cudnnGetErrorString(int status) {
  switch (status) {
    case DNN_NOT_INITIALIZED: return "CUDNN_STATUS_NOT_INITIALIZED";
    case DNN_BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
    case DNN_NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
    case DNN_EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
    default: return "CUDNN_UNKNOWN_STATUS";
  }
}
size_t cudnnGetVersion() { return 92800; }
int cudnnCreate(void** handle) {
  BEGIN(cudnnCreate);
  return make(handle, DNN_HANDLE, DnnHandle{nullptr}, DNN_BAD_PARAM);
}
int cudnnDestroy(void* handle) { return destroy<DnnHandle>(handle, DNN_HANDLE, DNN_BAD_PARAM); }
int cudnnSetStream(void* handle, void* stream) {
  BEGIN(cudnnSetStream);
  if (!is(handle, DNN_HANDLE)) return DNN_BAD_PARAM;
  static_cast<DnnHandle*>(handle)->stream = stream;
  return 0;
}
int cudnnCreateTensorDescriptor(void** made) {
  BEGIN(cudnnCreateTensorDescriptor);
  return make(made, DNN_TENSOR, Tensor{-1}, DNN_BAD_PARAM);
}
int cudnnDestroyTensorDescriptor(void* one) { return destroy<Tensor>(one, DNN_TENSOR, DNN_BAD_PARAM); }
int cudnnSetTensor4dDescriptorEx(void* handle, int type, int n, int c, int h, int w, int sn, int sc,
                                 int sh, int sw) {
  BEGIN(cudnnSetTensor4dDescriptorEx);
  if (!is(handle, DNN_TENSOR) || type != 0 || n < 1 || c < 1 || h < 1 || w < 1)
    return say(DNN_BAD_PARAM, "a tensor");
  if (sn < 1 || sc < 1 || sh < 1 || sw < 1) return say(DNN_BAD_PARAM, "strides of a tensor");
  *static_cast<Tensor*>(handle) = Tensor{type, n, c, h, w, sn, sc, sh, sw};
  return 0;
}
int cudnnCreateFilterDescriptor(void** made) {
  BEGIN(cudnnCreateFilterDescriptor);
  return make(made, DNN_FILTER, Filter{-1}, DNN_BAD_PARAM);
}
int cudnnDestroyFilterDescriptor(void* one) { return destroy<Filter>(one, DNN_FILTER, DNN_BAD_PARAM); }
int cudnnSetFilter4dDescriptor(void* handle, int type, int format, int k, int c, int h, int w) {
  BEGIN(cudnnSetFilter4dDescriptor);
  if (!is(handle, DNN_FILTER) || type != 0 || (format != 0 && format != 1))
    return say(DNN_BAD_PARAM, "a filter");
  if (k < 1 || c < 1 || h < 1 || w < 1) return say(DNN_BAD_PARAM, "extents of a filter");
  *static_cast<Filter*>(handle) = Filter{type, format, k, c, h, w};
  return 0;
}
int cudnnCreateConvolutionDescriptor(void** made) {
  BEGIN(cudnnCreateConvolutionDescriptor);
  return make(made, DNN_CONV, Conv{{0, 0}, {0, 0}, {0, 0}, -1, -1, 1, 0}, DNN_BAD_PARAM);
}
int cudnnDestroyConvolutionDescriptor(void* one) { return destroy<Conv>(one, DNN_CONV, DNN_BAD_PARAM); }
int cudnnSetConvolution2dDescriptor(void* handle, int pad_h, int pad_w, int u, int v, int dilation_h,
                                    int dilation_w, int mode, int type) {
  BEGIN(cudnnSetConvolution2dDescriptor);
  if (!is(handle, DNN_CONV) || pad_h < 0 || pad_w < 0 || u < 1 || v < 1 || dilation_h < 1 ||
      dilation_w < 1 || (mode != 0 && mode != 1) || type != 0)
    return say(DNN_BAD_PARAM, "a convolution");
  Conv& conv = *static_cast<Conv*>(handle);
  conv = Conv{{pad_h, pad_w}, {u, v}, {dilation_h, dilation_w}, mode, type, conv.groups, conv.math};
  return 0;
}
int cudnnSetConvolutionGroupCount(void* handle, int count) {
  BEGIN(cudnnSetConvolutionGroupCount);
  if (!is(handle, DNN_CONV) || count < 1) return say(DNN_BAD_PARAM, "groups");
  static_cast<Conv*>(handle)->groups = count;
  return 0;
}
int cudnnSetConvolutionMathType(void* handle, int math) {
  BEGIN(cudnnSetConvolutionMathType);
  if (!is(handle, DNN_CONV) || math < 0 || math > 3) return say(DNN_BAD_PARAM, "math type");
  static_cast<Conv*>(handle)->math = math;
  return 0;
}

// Whether tensors and filter fit the convolution.
static int suits(void* handle, void* x, void* w, void* conv, void* y) {
  if (!is(handle, DNN_HANDLE)) return DNN_NOT_INITIALIZED;
  if (!is(x, DNN_TENSOR) || !is(y, DNN_TENSOR) || !is(w, DNN_FILTER) || !is(conv, DNN_CONV))
    return say(DNN_BAD_PARAM, "a descriptor of another kind");
  const Tensor &X = *static_cast<Tensor*>(x), &Y = *static_cast<Tensor*>(y);
  const Filter& W = *static_cast<Filter*>(w);
  const Conv& of = *static_cast<Conv*>(conv);
  if (X.type || Y.type || W.type || of.type) return say(DNN_BAD_PARAM, "a descriptor is not set");
  if (of.math != 3 && of.math != 0) return say(DNN_NOT_SUPPORTED, "math type");
  if (W.format != 1) return say(DNN_NOT_SUPPORTED, "filters with channels first");
  for (const Tensor* t : {&X, &Y}) {
    if (t->sc != 1 || t->sw < t->c || t->sh < t->sw * t->w || t->sn < t->sh * t->h)
      return say(DNN_NOT_SUPPORTED, "tensors with channels first");
  }
  if (X.n != Y.n || X.c != W.c * of.groups || Y.c != W.k || W.k % of.groups)
    return say(DNN_BAD_PARAM, "channels or images do not fit");
  const int heights[] = {X.h, W.h, Y.h}, widths[] = {X.w, W.w, Y.w};
  for (int side = 0; side < 2; ++side) {
    const int* extent = side ? widths : heights;
    const int span = of.dilation[side] * (extent[1] - 1) + 1;
    if ((extent[0] + 2 * of.pad[side] - span) / of.stride[side] + 1 != extent[2])
      return say(DNN_BAD_PARAM, "extents of the result");
  }
  return 0;
}

int cudnnGetConvolutionForwardWorkspaceSize(void* handle, void* x, void* w, void* conv, void* y,
                                            int algo, size_t* size) {
  BEGIN(cudnnGetConvolutionForwardWorkspaceSize);
  const int failed = suits(handle, x, w, conv, y);
  if (failed) return failed;
  if (!size || algo < 0 || algo > 7) return say(DNN_BAD_PARAM, "algorithm");
  if (algo > 1) return say(DNN_NOT_SUPPORTED, "no direct sum");
  *size = algo ? DNN_WORKSPACE : 0;
  return 0;
}
int cudnnGetConvolutionBackwardDataWorkspaceSize(void* handle, void* w, void* dy, void* conv,
                                                 void* dx, int algo, size_t* size) {
  BEGIN(cudnnGetConvolutionBackwardDataWorkspaceSize);
  const int failed = suits(handle, dx, w, conv, dy);
  if (failed) return failed;
  if (!size || algo < 0 || algo > 5) return say(DNN_BAD_PARAM, "algorithm");
  if (algo != 1) return say(DNN_NOT_SUPPORTED, "sums whose order varies");
  *size = DNN_WORKSPACE;
  return 0;
}
int cudnnGetConvolutionBackwardFilterWorkspaceSize(void* handle, void* x, void* dy, void* conv,
                                                   void* dw, int algo, size_t* size) {
  BEGIN(cudnnGetConvolutionBackwardFilterWorkspaceSize);
  const int failed = suits(handle, x, dw, conv, dy);
  if (failed) return failed;
  if (!size || algo < 0 || algo > 6) return say(DNN_BAD_PARAM, "algorithm");
  if (algo != 1) return say(DNN_NOT_SUPPORTED, "sums whose order varies");
  *size = DNN_WORKSPACE;
  return 0;
}

// One of the three, each a walk over the same products.
static int convolve(void* handle, const float* alpha, const float* beta, void* x, const float* xs,
                    void* w, const float* ws, void* conv, void* y, const float* ys, float* result,
                    void* workspace, size_t size, size_t need) {
  const int failed = suits(handle, x, w, conv, y);
  if (failed) return failed;
  if (!alpha || !beta || !xs || !ws || !ys || *alpha != 1 || *beta != 0)
    return say(DNN_BAD_PARAM, "a null, or another factor");
  if (size < need || (need && (!workspace || !aligned(workspace, 16))))
    return say(DNN_BAD_PARAM, "workspace of a convolution");
  if (!aligned(xs, 4) || !aligned(ws, 16) || !aligned(ys, 4)) return say(DNN_BAD_PARAM, "alignment");
  if (static_cast<DnnHandle*>(handle)->stream != (void*)7) return say(DNN_BAD_PARAM, "another stream");
  const Tensor &X = *static_cast<Tensor*>(x), &Y = *static_cast<Tensor*>(y);
  const Filter& W = *static_cast<Filter*>(w);
  const Conv& of = *static_cast<Conv*>(conv);
  std::map<size_t, double> sums;
  auto clear = [&](size_t at) { sums[at] = 0; };
  const bool forward = result == ys, data = result == xs;
  auto at_x = [&](int n, int c, int h, int v) {
    return size_t(n) * X.sn + size_t(c) * X.sc + size_t(h) * X.sh + size_t(v) * X.sw;
  };
  auto at_y = [&](int n, int c, int h, int v) {
    return size_t(n) * Y.sn + size_t(c) * Y.sc + size_t(h) * Y.sh + size_t(v) * Y.sw;
  };
  auto at_w = [&](int k, int c, int h, int v) {
    return ((size_t(k) * W.h + h) * W.w + v) * W.c + c;
  };
  if (need) memset(workspace, 0xFF, need);
  if (forward)
    for (int n = 0; n < Y.n; ++n) for (int c = 0; c < Y.c; ++c) for (int h = 0; h < Y.h; ++h)
      for (int v = 0; v < Y.w; ++v) clear(at_y(n, c, h, v));
  else if (data)
    for (int n = 0; n < X.n; ++n) for (int c = 0; c < X.c; ++c) for (int h = 0; h < X.h; ++h)
      for (int v = 0; v < X.w; ++v) clear(at_x(n, c, h, v));
  else
    for (int k = 0; k < W.k; ++k) for (int c = 0; c < W.c; ++c) for (int h = 0; h < W.h; ++h)
      for (int v = 0; v < W.w; ++v) clear(at_w(k, c, h, v));
  const int outputs = W.k / of.groups;
  for (int n = 0; n < Y.n; ++n)
    for (int k = 0; k < W.k; ++k)
      for (int p = 0; p < Y.h; ++p)
        for (int q = 0; q < Y.w; ++q)
          for (int r = 0; r < W.h; ++r)
            for (int s = 0; s < W.w; ++s) {
              const int tap_r = of.mode ? r : W.h - 1 - r, tap_s = of.mode ? s : W.w - 1 - s;
              const int h = p * of.stride[0] + tap_r * of.dilation[0] - of.pad[0];
              const int v = q * of.stride[1] + tap_s * of.dilation[1] - of.pad[1];
              if (h < 0 || h >= X.h || v < 0 || v >= X.w) continue;
              for (int c = 0; c < W.c; ++c) {
                const size_t ix = at_x(n, k / outputs * W.c + c, h, v), iw = at_w(k, c, r, s),
                             iy = at_y(n, k, p, q);
                if (forward) sums[iy] += double(xs[ix]) * ws[iw];
                else if (data) sums[ix] += double(ys[iy]) * ws[iw];
                else sums[iw] += double(xs[ix]) * ys[iy];
              }
            }
  for (const auto& sum : sums) result[sum.first] = float(sum.second) + wrong_by;
  seconds += seconds_a_call;
  return 0;
}

int cudnnConvolutionForward(void* handle, const void* alpha, void* x, const void* xs, void* w,
                            const void* ws, void* conv, int algo, void* workspace, size_t size,
                            const void* beta, void* y, void* ys) {
  BEGIN(cudnnConvolutionForward);
  if (algo != 0 && algo != 1) return say(DNN_NOT_SUPPORTED, "no direct sum");
  return convolve(handle, (const float*)alpha, (const float*)beta, x, (const float*)xs, w,
                  (const float*)ws, conv, y, (const float*)ys, (float*)ys, workspace, size,
                  algo ? DNN_WORKSPACE : 0);
}
int cudnnConvolutionBackwardData(void* handle, const void* alpha, void* w, const void* ws, void* y,
                                 const void* ys, void* conv, int algo, void* workspace, size_t size,
                                 const void* beta, void* x, void* xs) {
  BEGIN(cudnnConvolutionBackwardData);
  if (algo != 1) return say(DNN_NOT_SUPPORTED, "sums whose order varies");
  return convolve(handle, (const float*)alpha, (const float*)beta, x, (const float*)xs, w,
                  (const float*)ws, conv, y, (const float*)ys, (float*)xs, workspace, size,
                  DNN_WORKSPACE);
}
int cudnnConvolutionBackwardFilter(void* handle, const void* alpha, void* x, const void* xs, void* y,
                                   const void* ys, void* conv, int algo, void* workspace,
                                   size_t size, const void* beta, void* w, void* ws) {
  BEGIN(cudnnConvolutionBackwardFilter);
  if (algo != 1) return say(DNN_NOT_SUPPORTED, "sums whose order varies");
  return convolve(handle, (const float*)alpha, (const float*)beta, x, (const float*)xs, w,
                  (const float*)ws, conv, y, (const float*)ys, (float*)ws, workspace, size,
                  DNN_WORKSPACE);
}

}  // extern "C"
