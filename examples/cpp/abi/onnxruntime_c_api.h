// The part of ONNX Runtime's C API that learn.cpp calls, by place, for machines that have the library without its
// headers: pip's onnxruntime ships libonnxruntime.so alone. With the real headers, leave this folder out of -I.
//
// OrtApi is a table of functions that only ever grows at its end; its first 102 entries have been fixed since
// onnxruntime 1.0, so that a program which asks for version 1 runs with every later library. Entries not called
// here are blanks that keep the others in place.
#pragma once
#include <cstddef>
#include <cstdint>

struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtMemoryInfo;
struct OrtValue;

constexpr uint32_t ORT_API_VERSION = 1;
enum OrtLoggingLevel { ORT_LOGGING_LEVEL_WARNING = 2 };
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };
enum ONNXTensorElementDataType { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 };

struct OrtApi {
  void* blank_0[2];
  const char* (*GetErrorMessage)(const OrtStatus*);  // 2
  OrtStatus* (*CreateEnv)(OrtLoggingLevel, const char*, OrtEnv**);
  void* blank_4[4];
  OrtStatus* (*CreateSessionFromArray)(const OrtEnv*, const void*, size_t, const OrtSessionOptions*, OrtSession**);  // 8
  OrtStatus* (*Run)(OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*, size_t,
                    const char* const*, size_t, OrtValue**);
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions**);  // 10
  void* blank_11[6];
  OrtStatus* (*DisableMemPattern)(OrtSessionOptions*);  // 17
  void* blank_18[6];
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions*, int);  // 24
  void* blank_25[24];
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t,
                                               ONNXTensorElementDataType, OrtValue**);  // 49
  void* blank_50[1];
  OrtStatus* (*GetTensorMutableData)(OrtValue*, void**);  // 51
  void* blank_52[17];
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType, OrtMemType, OrtMemoryInfo**);  // 69
  void* blank_70[22];
  void (*ReleaseEnv)(OrtEnv*);  // 92
  void (*ReleaseStatus)(OrtStatus*);
  void (*ReleaseMemoryInfo)(OrtMemoryInfo*);
  void (*ReleaseSession)(OrtSession*);
  void (*ReleaseValue)(OrtValue*);
  void* blank_97[3];
  void (*ReleaseSessionOptions)(OrtSessionOptions*);  // 100
  void* blank_101[1];
};
static_assert(offsetof(OrtApi, ReleaseSessionOptions) == 100 * sizeof(void*), "an entry has moved");

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
extern "C" const OrtApiBase* OrtGetApiBase();
