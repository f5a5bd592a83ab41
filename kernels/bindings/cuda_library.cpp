#include "kernels/bindings/cuda_library.h"

#include <dlfcn.h>
#include <elf.h>
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/bindings/registration.h"
#include "kernels/ffi/cuda_library.h"

namespace nb = nanobind;

namespace nadam_xla {
namespace {

nb::tuple version(const int number) { return nb::make_tuple(number / 1000, number % 1000 / 10); }

// The driver itself is asked: CUDA's runtime would start it, and after that CUDA_VISIBLE_DEVICES
// has no effect, and processes that are forked cannot use the GPU.
nb::tuple driver_version() {
  using GetVersion = int (*)(int*);
  constexpr int kSuccess = 0;
  // Never closed: whatever uses a GPU in this process needs it too.
  void* const driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  void* const symbol = driver == nullptr ? nullptr : ::dlsym(driver, "cuDriverGetVersion");
  int number = 0;
  const bool is_known =
      symbol != nullptr && reinterpret_cast<GetVersion>(symbol)(&number) == kSuccess;
  return version(is_known ? number : 0);
}

// Whether less of the file is there than its headers say, of which those of the sections come last.
// The loader would believe them, and what reads beyond the end ends the process.
bool is_cut_off(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header{};
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  if (!file || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return false;  // no library
  const std::uint64_t whole = header.e_shoff + header.e_shnum * header.e_shentsize;
  file.seekg(0, std::ios::end);
  return static_cast<std::uint64_t>(file.tellg()) < whole;
}

// Throws ImportError, which says what is wrong with the file.
const ffi::CudaLibrary& load(const std::string& path) {
  if (is_cut_off(path)) throw nb::import_error((path + " is cut off").c_str());
  // At once, so that what is missing shows here. Never closed: a runtime holds its handlers.
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) throw nb::import_error(::dlerror());
  void* const symbol = ::dlsym(library, ffi::kCudaLibrarySymbol);
  if (symbol == nullptr) {
    throw nb::import_error((path + " has no symbol " + ffi::kCudaLibrarySymbol).c_str());
  }
  const ffi::CudaLibrary& table = *reinterpret_cast<ffi::GetCudaLibrary*>(symbol)();
  if (table.interface != ffi::kCudaInterface) {
    throw nb::import_error((path + " has interface " + std::to_string(table.interface) +
                            "; this build of nadam_xla needs " +
                            std::to_string(ffi::kCudaInterface))
                               .c_str());
  }
  return table;
}

class CudaLibrary {
 public:
  explicit CudaLibrary(const std::string& path) : path_(path), table_(load(path)) {}

  const std::string& path() const { return path_; }
  const char* package_version() const { return table_.package_version; }
  nb::tuple toolkit_version() const { return version(table_.toolkit_version); }

  nb::tuple architectures() const {
    nb::list found;
    for (std::int64_t i = 0; i < table_.architecture_count; ++i) {
      found.append(table_.architectures[i]);
    }
    return nb::tuple(found);
  }

  std::vector<Registration> registrations() const {
    std::vector<Registration> found;
    for (std::int64_t i = 0; i < table_.target_count; ++i) {
      const ffi::CudaTarget& target = table_.targets[i];
      found.push_back({target.name, "CUDA", target.execute, target.initialize});
    }
    return found;
  }

 private:
  std::string path_;
  const ffi::CudaLibrary& table_;
};

}  // namespace

void define_cuda_library(nb::module_& m) {
  m.def("cuda_driver_version", &driver_version,
        "The newest CUDA that the driver of this machine can run, (major, minor); (0, 0) where "
        "there is no driver.");
  nb::class_<CudaLibrary>(m, "CudaLibrary", "The CUDA handlers, in a library of their own.")
      .def(nb::init<std::string>(), nb::arg("path"),
           "Loads the library; ImportError says why it cannot be.")
      .def(
          "registrations",
          [](const CudaLibrary& library) { return capsules(library.registrations()); },
          kRegistrationsDoc)
      .def(
          "register_with_runtime",
          [](const CudaLibrary& library, const std::uintptr_t api_address) {
            register_with_runtime(library.registrations(), api_address);
          },
          nb::arg("api_address"), kRegisterWithRuntimeDoc)
      .def_prop_ro("path", &CudaLibrary::path)
      .def_prop_ro("version", &CudaLibrary::package_version,
                   "The version of nadam_xla that it was built from.")
      .def_prop_ro("toolkit_version", &CudaLibrary::toolkit_version,
                   "The CUDA that it was built with, (major, minor).")
      .def_prop_ro("architectures", &CudaLibrary::architectures,
                   "What it has machine code for: 90 is compute capability 9.0.");
}

}  // namespace nadam_xla
