#include "tests/native_boundary/call_frame.h"

#include <cstring>
#include <utility>

// XLA's own, of which a handler knows the name alone.
struct XLA_FFI_Error {
  std::string message;
};

struct XLA_FFI_ExecutionContext {
  nadam_xla::native_boundary::Pool* pool;
};

namespace nadam_xla::native_boundary {
namespace {

XLA_FFI_Error* create_error(XLA_FFI_Error_Create_Args* const args) {
  return new XLA_FFI_Error{args->message};
}

void get_message(XLA_FFI_Error_GetMessage_Args* const args) {
  args->message = args->error->message.c_str();
}

void destroy_error(XLA_FFI_Error_Destroy_Args* const args) { delete args->error; }

XLA_FFI_Error* schedule(XLA_FFI_ThreadPool_Schedule_Args* const args) {
  const auto task = [run = args->task, data = args->data] { run(data); };
  return args->ctx->pool->schedule(task) ? nullptr : new XLA_FFI_Error{"there is no pool"};
}

XLA_FFI_Error* count_threads(XLA_FFI_ThreadPool_NumThreads_Args* const args) {
  *args->num_threads = args->ctx->pool->threads();
  return nullptr;
}

XLA_FFI_Api make_api() {
  XLA_FFI_Api api = {};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR,
                     XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = create_error;
  api.XLA_FFI_Error_GetMessage = get_message;
  api.XLA_FFI_Error_Destroy = destroy_error;
  api.XLA_FFI_ThreadPool_Schedule = schedule;
  api.XLA_FFI_ThreadPool_NumThreads = count_threads;
  return api;
}

const XLA_FFI_Api kApi = make_api();

// C enumerations, of which XLA may have more values than the headers name.
template <typename Enumeration>
Enumeration numbered(const int number) {
  Enumeration value{};
  static_assert(sizeof(value) == sizeof(number));
  std::memcpy(&value, &number, sizeof(value));
  return value;
}

// The C structs of buffers, which point into those of the call.
template <typename Kind>
class CBuffers {
 public:
  explicit CBuffers(const std::vector<Buffer>& buffers) : dimensions_(buffers.size()) {
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      const Buffer& buffer = buffers[i];
      dimensions_[i] = buffer.dimensions;
      c_.push_back({XLA_FFI_Buffer_STRUCT_SIZE, nullptr, numbered<XLA_FFI_DataType>(buffer.type),
                    buffer.data, static_cast<std::int64_t>(buffer.dimensions.size()),
                    dimensions_[i].data()});
      kinds.push_back(numbered<Kind>(buffer.is_buffer ? 1 : 0));
    }
    for (XLA_FFI_Buffer& buffer : c_) pointers.push_back(&buffer);
  }

  std::vector<Kind> kinds;
  std::vector<void*> pointers;

 private:
  std::vector<std::vector<std::int64_t>> dimensions_;
  std::vector<XLA_FFI_Buffer> c_;
};

class CAttributes {
 public:
  explicit CAttributes(const std::map<std::string, Attribute>& attributes)
      : attributes_(attributes) {
    for (auto& [name, attribute] : attributes_) {
      spans_.push_back({name.data(), name.size()});
      scalars_.push_back({numbered<XLA_FFI_DataType>(attribute.type), &attribute.value});
      kinds.push_back(attribute.is_string ? XLA_FFI_AttrType_STRING : XLA_FFI_AttrType_SCALAR);
    }
    for (std::size_t i = 0; i < kinds.size(); ++i) {
      names.push_back(&spans_[i]);
      const bool is_string = kinds[i] == XLA_FFI_AttrType_STRING;
      pointers.push_back(is_string ? static_cast<void*>(&spans_[i]) : &scalars_[i]);
    }
  }

  std::vector<XLA_FFI_AttrType> kinds;
  std::vector<XLA_FFI_ByteSpan*> names;
  std::vector<void*> pointers;

 private:
  std::map<std::string, Attribute> attributes_;
  std::vector<XLA_FFI_ByteSpan> spans_;
  std::vector<XLA_FFI_Scalar> scalars_;
};

}  // namespace

std::optional<std::string> run(XLA_FFI_Handler* const handler, const Call& call, Pool& pool) {
  CBuffers<XLA_FFI_ArgType> operands(call.operands);
  CBuffers<XLA_FFI_RetType> results(call.results);
  CAttributes attributes(call.attributes);
  // On the heap, so that whoever uses it after the call is found out.
  const auto context = std::make_unique<XLA_FFI_ExecutionContext>();
  context->pool = &pool;
  const auto frame = std::make_unique<XLA_FFI_CallFrame>();
  frame->struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame->api = &kApi;
  frame->ctx = context.get();
  frame->stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame->args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, static_cast<std::int64_t>(call.operands.size()),
                 operands.kinds.data(), operands.pointers.data()};
  frame->rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, static_cast<std::int64_t>(call.results.size()),
                 results.kinds.data(), results.pointers.data()};
  frame->attrs = {XLA_FFI_Attrs_STRUCT_SIZE,
                  nullptr,
                  static_cast<std::int64_t>(attributes.kinds.size()),
                  attributes.kinds.data(),
                  attributes.names.data(),
                  attributes.pointers.data()};
  const std::unique_ptr<XLA_FFI_Error> error(handler(frame.get()));
  return error ? std::optional(error->message) : std::nullopt;
}

}  // namespace nadam_xla::native_boundary
