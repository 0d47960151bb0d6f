// The device's loop in C++: ONNX Runtime's C API alone, nothing of edgessl. docs/bundle.md is all it goes by.
//
//   apt-get install g++ nlohmann-json3-dev libssl-dev
//   g++ -std=c++17 -O2 learn.cpp -I ORT/include -L ORT/lib -lonnxruntime -lcrypto -o learn    (CMakeLists.txt does it too)
//   ./learn model.edgessl input.safetensors
//
// input.safetensors holds x (N, *shape) to embed, and batch (T, B, *shape), noise (T, B, K) for T training steps, all
// float32. Prints one line of JSON: the embeddings before and after, the loss of every step, and theta.
// A product would also check model.sig and save its state; see sections 6 and 8.

#include <onnxruntime_c_api.h>
#include <openssl/sha.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using nlohmann::json;
using Bytes = std::string;

struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> data;
};
using Tensors = std::map<std::string, Tensor>;

static int64_t count(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
}

static void require(bool holds, const std::string& otherwise) {
  if (!holds) throw std::runtime_error(otherwise);
}

// ---- files (sections 1 and 4)

static Bytes read_file(const char* path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), std::string(path) + ": cannot be read");
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

template <typename Integer>  // little-endian, as every machine that onnxruntime is built for
static Integer integer(const Bytes& data, size_t place) {
  require(place <= data.size() && sizeof(Integer) <= data.size() - place, "the file ends too early");
  Integer value;
  std::memcpy(&value, data.data() + place, sizeof value);
  return value;
}

static Bytes slice(const Bytes& data, size_t start, size_t size) {
  require(start <= data.size() && size <= data.size() - start, "the file ends too early");
  return data.substr(start, size);
}

// The files of a zip archive whose members are stored: the directory at the end says where each begins.
static std::map<std::string, Bytes> unzip(const Bytes& data) {
  const size_t end = data.rfind("PK\x05\x06");
  require(end != Bytes::npos, "not a zip file");
  std::map<std::string, Bytes> files;
  size_t place = integer<uint32_t>(data, end + 16);
  for (int i = 0, n = integer<uint16_t>(data, end + 10); i < n; ++i) {
    require(integer<uint16_t>(data, place + 10) == 0, "a member is compressed");
    const size_t name = integer<uint16_t>(data, place + 28), local = integer<uint32_t>(data, place + 42);
    const size_t start = local + 30 + integer<uint16_t>(data, local + 26) + integer<uint16_t>(data, local + 28);
    files[slice(data, place + 46, name)] = slice(data, start, integer<uint32_t>(data, place + 24));
    place += 46 + name + integer<uint16_t>(data, place + 30) + integer<uint16_t>(data, place + 32);
  }
  return files;
}

static std::string sha256(const Bytes& data) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
  std::string text;
  for (unsigned char byte : digest) {
    char two[3];
    std::snprintf(two, sizeof two, "%02x", byte);
    text += two;
  }
  return text;
}

static Tensors read_tensors(const Bytes& data) {
  const size_t header = integer<uint64_t>(data, 0);
  const json entries = json::parse(slice(data, 8, header));
  Tensors found;
  for (const auto& [name, entry] : entries.items()) {
    if (name == "__metadata__") continue;
    require(entry.at("dtype") == "F32", name + ": this program reads F32 only");
    const size_t begin = entry.at("data_offsets").at(0), stop = entry.at("data_offsets").at(1);
    require(begin <= stop, name + ": its data end before they begin");
    Tensor tensor{entry.at("shape").get<std::vector<int64_t>>(), {}};
    const Bytes bytes = slice(data, 8 + header + begin, stop - begin);
    require(count(tensor.shape) * int64_t{sizeof(float)} == int64_t(bytes.size()), name + ": shape and data disagree");
    tensor.data.resize(bytes.size() / sizeof(float));
    std::memcpy(tensor.data.data(), bytes.data(), bytes.size());
    found.emplace(name, std::move(tensor));
  }
  return found;
}

// Row t of a tensor.
static Tensor row(const Tensor& tensor, int64_t t) {
  std::vector<int64_t> shape(tensor.shape.begin() + 1, tensor.shape.end());
  const auto first = tensor.data.begin() + t * count(shape);
  return {shape, std::vector<float>(first, first + count(shape))};
}

// ---- onnxruntime

static const OrtApi* const ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);

static void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = ort->GetErrorMessage(status);
  ort->ReleaseStatus(status);
  throw std::runtime_error("onnxruntime: " + message);
}

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

class Session {
 public:
  Session(const OrtEnv* env, const Bytes& graph)
      : session_(nullptr, ort->ReleaseSession), memory_(nullptr, ort->ReleaseMemoryInfo) {
    OrtSessionOptions* made = nullptr;
    check(ort->CreateSessionOptions(&made));
    const Owned<OrtSessionOptions> options(made, ort->ReleaseSessionOptions);
    check(ort->SetIntraOpNumThreads(options.get(), 1));
    check(ort->DisableMemPattern(options.get()));  // a third less memory, the same speed
    OrtSession* session = nullptr;
    check(ort->CreateSessionFromArray(env, graph.data(), graph.size(), options.get(), &session));
    session_.reset(session);
    OrtMemoryInfo* memory = nullptr;
    check(ort->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    memory_.reset(memory);
  }

  // `outputs`: name to shape; their data are copied out. `feeds` stay the caller's.
  Tensors run(const std::map<std::string, Tensor*>& feeds, const std::map<std::string, std::vector<int64_t>>& outputs) {
    std::vector<const char*> in, out;
    std::vector<Owned<OrtValue>> held;
    std::vector<const OrtValue*> given;
    for (const auto& [name, tensor] : feeds) {
      OrtValue* value = nullptr;
      check(ort->CreateTensorWithDataAsOrtValue(memory_.get(), tensor->data.data(), tensor->data.size() * sizeof(float),
                                                tensor->shape.data(), tensor->shape.size(),
                                                ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
      held.emplace_back(value, ort->ReleaseValue);
      given.push_back(value);
      in.push_back(name.c_str());
    }
    for (const auto& [name, shape] : outputs) out.push_back(name.c_str());
    std::vector<OrtValue*> results(out.size(), nullptr);
    check(ort->Run(session_.get(), nullptr, in.data(), given.data(), in.size(), out.data(), out.size(), results.data()));
    Tensors found;
    size_t i = 0;
    for (const auto& [name, shape] : outputs) {
      held.emplace_back(results[i], ort->ReleaseValue);
      void* data = nullptr;
      check(ort->GetTensorMutableData(results[i++], &data));
      const float* first = static_cast<const float*>(data);
      found[name] = {shape, std::vector<float>(first, first + count(shape))};
    }
    return found;
  }

 private:
  Owned<OrtSession> session_;
  Owned<OrtMemoryInfo> memory_;
};

// ---- the loop

static json learn(const char* bundle, const char* given) {
  const auto files = unzip(read_file(bundle));
  const json manifest = json::parse(files.at("manifest.json"));
  for (const auto& [name, member] : manifest.at("members").items())
    require(sha256(files.at(name)) == member.at("sha256"), name + ": SHA-256 disagrees with the manifest");

  OrtEnv* made = nullptr;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "edgessl", &made));
  const Owned<OrtEnv> env(made, ort->ReleaseEnv);
  const json& graphs = manifest.at("graphs");
  Session encoder(env.get(), files.at(graphs.at("encoder").at("file")));
  Session train(env.get(), files.at(graphs.at("train").at("file")));

  Tensors input = read_tensors(read_file(given));
  Tensors state = read_tensors(files.at("state.safetensors"));
  Tensors hyper;
  for (const auto& [name, value] : manifest.at("hyper").items()) hyper["hyper." + name] = {{}, {value.get<float>()}};
  std::string shown;  // the weights that embed: theta, or a copy that follows it slowly
  for (const json& one : graphs.at("encoder").at("inputs"))
    if (one.at("name") != "x") shown = one.at("name");
  const int64_t dim = manifest.at("embedding_dim");
  const auto embed = [&] {
    Tensor& x = input.at("x");
    return encoder.run({{shown, &state.at(shown)}, {"x", &x}}, {{"embedding", {x.shape.at(0), dim}}})["embedding"].data;
  };

  std::map<std::string, std::vector<int64_t>> wanted{{"loss", {}}};
  for (const json& slot : manifest.at("slots"))
    wanted["next." + slot.at("name").get<std::string>()] = slot.at("shape").get<std::vector<int64_t>>();
  json answer{{"before", embed()}, {"losses", json::array()}};
  for (int64_t t = 0; t < input.at("batch").shape.at(0); ++t) {
    Tensor batch = row(input.at("batch"), t), noise = row(input.at("noise"), t);
    std::map<std::string, Tensor*> feeds{{"batch", &batch}, {"noise", &noise}};
    for (auto& [name, tensor] : hyper) feeds[name] = &tensor;
    for (auto& [name, tensor] : state) feeds[name] = &tensor;
    Tensors results = train.run(feeds, wanted);
    answer["losses"].push_back(results.at("loss").data.at(0));
    for (auto& [name, tensor] : state) tensor = std::move(results.at("next." + name));
  }
  answer["after"] = embed();
  answer["theta"] = state.at("theta").data;
  return answer;
}

int main(int argc, char** argv) {
  try {
    require(argc == 3, "usage: learn model.edgessl input.safetensors");
    std::cout << learn(argv[1], argv[2]).dump() << std::endl;
    return 0;
  } catch (const std::exception& error) {
    std::cerr << "learn: " << error.what() << std::endl;
    return 1;
  }
}
