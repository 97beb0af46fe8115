"""A real load for a GPU by the CUDA driver's own interface: no toolkit, a kernel in PTX.

Run by hand or by the hardware test: ``python -m tests.sim.cudaload SECONDS``.  It prints how many
times the kernel ran, and leaves with 77 where there is no CUDA driver or device.
"""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Final

NOT_HERE: Final = 77
THREADS: Final = 256
BLOCKS: Final = 4096
ROUNDS: Final = 200_000

PTX: Final = b"""
.version 6.0
.target sm_50
.address_size 64
.visible .entry burn(.param .u64 out, .param .u32 rounds)
{
    .reg .pred %p; .reg .b32 %r<8>; .reg .f32 %f<6>; .reg .b64 %d<4>;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [rounds];
    mov.u32 %r2, %tid.x; mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x;
    mad.lo.s32 %r5, %r3, %r4, %r2;
    cvt.rn.f32.s32 %f1, %r5;
    mov.f32 %f2, 0f3F800001; mov.f32 %f3, 0f3A83126F; mov.f32 %f4, %f1;
    mov.u32 %r6, 0;
LOOP:
    fma.rn.f32 %f1, %f1, %f2, %f3;
    fma.rn.f32 %f4, %f4, %f2, %f3;
    fma.rn.f32 %f1, %f1, %f2, %f3;
    fma.rn.f32 %f4, %f4, %f2, %f3;
    add.s32 %r6, %r6, 1;
    setp.lt.s32 %p, %r6, %r1;
    @%p bra LOOP;
    add.f32 %f1, %f1, %f4;
    cvta.to.global.u64 %d2, %d1;
    mul.wide.s32 %d3, %r5, 4;
    add.s64 %d2, %d2, %d3;
    st.global.f32 [%d2], %f1;
    ret;
}
"""


class CudaError(Exception):
    """A call of the CUDA driver failed."""


def check(code: int, what: str) -> None:
    """Raise where a call did not succeed."""
    if code:
        raise CudaError(f"{what}: CUDA error {code}")


def burn(cuda: ctypes.CDLL, seconds: float) -> int:
    """Keep the first device busy for so long; return how many times the kernel ran."""
    device, count = ctypes.c_int(), 0
    context, module, kernel = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    memory, rounds = ctypes.c_uint64(), ctypes.c_uint32(ROUNDS)
    check(cuda.cuDeviceGet(ctypes.byref(device), 0), "cuDeviceGet")
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device), "cuDevicePrimaryCtxRetain")
    check(cuda.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    check(cuda.cuModuleLoadData(ctypes.byref(module), PTX), "cuModuleLoadData")
    check(cuda.cuModuleGetFunction(ctypes.byref(kernel), module, b"burn"), "cuModuleGetFunction")
    size = ctypes.c_size_t(4 * THREADS * BLOCKS)
    check(cuda.cuMemAlloc_v2(ctypes.byref(memory), size), "cuMemAlloc")
    arguments = (ctypes.c_void_p * 2)(ctypes.addressof(memory), ctypes.addressof(rounds))
    shape = [ctypes.c_uint(n) for n in (BLOCKS, 1, 1, THREADS, 1, 1, 0)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check(cuda.cuLaunchKernel(kernel, *shape, None, arguments, None), "cuLaunchKernel")
        check(cuda.cuCtxSynchronize(), "cuCtxSynchronize")
        count += 1
    check(cuda.cuDevicePrimaryCtxRelease_v2(device), "cuDevicePrimaryCtxRelease")
    return count


def main() -> int:
    """Burn for the seconds that the first argument names."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
        check(cuda.cuInit(0), "cuInit")
    except (OSError, CudaError) as exc:
        print(exc)
        return NOT_HERE
    print(burn(cuda, float(sys.argv[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
