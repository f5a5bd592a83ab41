#!/bin/sh
# Puts together what compiles for CUDA 12, in a folder of its own: cuda12_toolkit.sh FOLDER PYTHON
#
# PyPI has nvcc from CUDA 13 on alone. So nvcc and the programs that it calls are those of Debian 13's
# package, taken out of it: nothing is installed, and no rights are needed. The headers of the same
# release come from PyPI; so does the static runtime, of the first release of CUDA 12 that has it
# there: objects may be linked to a later runtime of the same major version. nvcc works with g++ 13 at
# the most; CUDAHOSTCXX names one where it is not the first.
set -eu

folder=$1
python=$2

rm -rf "$folder"
mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial"
folder=$(realpath "$folder")

keys=/usr/share/keyrings/debian-archive-keyring.gpg
# The mirror that this machine takes Debian from; elsewhere DEBIAN_MIRROR names one.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' | grep --max-count=1 '/debian/$' || true)}
if [ ! -e "$keys" ] || [ -z "$mirror" ]; then
  echo "CUDA 12's compiler is taken from Debian: it needs apt-get, the package debian-archive-keyring" \
    "and a mirror, which DEBIAN_MIRROR names; or CUDACXX12=/path/to/nvcc names another compiler" >&2
  exit 1
fi
echo "deb [arch=$(dpkg --print-architecture) signed-by=$keys] $mirror trixie non-free" \
  >"$folder/apt/sources.list"
apt() {
  apt-get -qq -o "Dir::Etc::SourceList=$folder/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o "Dir::State=$folder/apt" -o Dir::State::Status=/dev/null -o "Dir::Cache=$folder/apt" \
    -o APT::Sandbox::User= "$@"
}
apt update
(cd "$folder/apt" && apt download nvidia-cuda-toolkit)
dpkg-deb -x "$folder"/apt/nvidia-cuda-toolkit_*.deb "$folder/debian"

"$python" -m pip install --quiet --no-deps --target "$folder/headers" \
  nvidia-cuda-nvcc-cu12==12.4.131 nvidia-cuda-runtime-cu12==12.4.127
"$python" -m pip install --quiet --no-deps --target "$folder/runtime" \
  nvidia-cuda-runtime-cu12==12.9.79

mkdir -p "$folder/bin" "$folder/nvvm/bin" "$folder/include" "$folder/lib64"
for program in cudafe++ fatbinary nvlink ptxas; do
  mv "$folder/debian/usr/bin/$program" "$folder/bin"
done
mv "$folder/debian/usr/lib/nvidia-cuda-toolkit/bin/nvcc" "$folder/bin"
mv "$folder/debian/usr/lib/nvidia-cuda-toolkit/bin/crt" "$folder/bin"
mv "$folder/debian/usr/lib/nvidia-cuda-toolkit/bin/cicc" "$folder/nvvm/bin"
mv "$folder/debian/usr/lib/nvidia-cuda-toolkit/libdevice" "$folder/nvvm"
cp -R "$folder"/headers/nvidia/*/include/. "$folder/include"
cp "$folder/runtime/nvidia/cuda_runtime/lib/libcudart_static.a" "$folder/lib64"
# nvcc gives it to its linker, which takes none that is newer. No kernel here starts another.
ar rc "$folder/lib64/libcudadevrt.a"
rm -rf "$folder/apt" "$folder/debian" "$folder/headers" "$folder/runtime"

# As NVIDIA's own toolkit has it; Debian's names its folders in /usr.
cat >"$folder/bin/nvcc.profile" <<'PROFILE'
TOP = $(_HERE_)/..
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
PATH += $(TOP)/nvvm/bin:$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib64"
PROFILE
