// What a machine must be for these kernels: little-endian, with addresses of 64 bits. Elsewhere the
// compiler ends here, as CMakeLists.txt does before it, which says what it found.
//
// Two stored numbers of 16 bits are read as one word, whose lower half is the first of them; codes
// of 8 bits likewise. The FFI's structs and the sizes of buffers are those of 64 bits.
#pragma once

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "this machine is not little-endian; nadam_xla supports little-endian machines of 64 bits"
#endif

#if __SIZEOF_POINTER__ != 8
#error "this machine is not one of 64 bits; nadam_xla supports little-endian machines of 64 bits"
#endif
