"""The library of the NVIDIA driver (NVML): whether it is there, opening it, what its errors mean.

pynvml is imported only after the library itself could be loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from tychod.collectors.base import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType

    from tychod.hostfs import Host

SONAME: Final = "libnvidia-ml.so.1"
CONTROL_DEVICE: Final = "/dev/nvidiactl"
LIBRARY_DIRECTORIES: Final = (
    *("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"),
    "/usr/lib/wsl/lib",
)
OPERATOR_DIRECTORIES: Final = ("usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64")
"""Below <run>/nvidia/driver, where the GPU Operator's driver container keeps its files."""

TEXT_MOST: Final = 96
"""Characters of the longest text that NVML gives (NVML_DEVICE_NAME_V2_BUFFER_SIZE)."""

# Return codes of nvml.h (nvmlReturn_t).
SUCCESS: Final = 0
UNINITIALIZED: Final = 1
NOT_SUPPORTED: Final = 3
NO_PERMISSION: Final = 4
NOT_FOUND: Final = 6
DRIVER_NOT_LOADED: Final = 9
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
GPU_IS_LOST: Final = 15
RESET_REQUIRED: Final = 16
LIB_RM_VERSION_MISMATCH: Final = 18
ARGUMENT_VERSION_MISMATCH: Final = 25
DEPRECATED: Final = 26
GPU_NOT_FOUND: Final = 28

DOWN: Final = frozenset(
    {UNINITIALIZED, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, LIB_RM_VERSION_MISMATCH}
)
"""Nothing can be asked until the library is initialised anew."""
LOST: Final = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND})
"""Nothing can be asked of this device until then."""
REFUSED: Final = frozenset(
    {
        *(NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND),
        *(ARGUMENT_VERSION_MISMATCH, DEPRECATED),
    }
)
"""This question will not be answered, however often it is asked."""


class Advice(NamedTuple):
    """What is wrong, and what a person could do about it."""

    reason: str
    remedy: str


ABSENT: Final = Advice(
    "no NVIDIA driver on this host",
    f"install the driver, or name its {SONAME} in [nvml] library if it is elsewhere",
)
NO_LIBRARY: Final = Advice(
    f"the NVIDIA driver is there but its library {SONAME} is not found",
    "install the driver's library (Debian: libnvidia-ml1), or name the file in [nvml] library",
)
NO_MODULE: Final = Advice(
    "the Python module pynvml is not installed",
    "install nvidia-ml-py for the Python that runs tychod",
)
ADVICE: Final[Mapping[int, Advice]] = {
    DRIVER_NOT_LOADED: Advice(
        "the NVIDIA driver is not loaded",
        "load it (modprobe nvidia); nvidia-smi shows whether it works",
    ),
    NO_PERMISSION: Advice(
        "the NVIDIA driver does not let this user in",
        "let the daemon's user open /dev/nvidiactl and /dev/nvidia0 and on (mode, group, the "
        "unit's DeviceAllow)",
    ),
    LIB_RM_VERSION_MISMATCH: Advice(
        "the NVIDIA driver in the kernel and its library have different versions (driver updated?)",
        "restart the machine, or load the new nvidia modules and restart tychod",
    ),
    UNINITIALIZED: Advice(
        "the NVIDIA driver was restarted",
        "nothing: it is tried again by itself; nvidia-smi shows whether the driver works",
    ),
    LIBRARY_NOT_FOUND: NO_LIBRARY,
}
OTHER_REMEDY: Final = "run nvidia-smi and look into the kernel log (journalctl -k, lines with NVRM)"


class DriverDownError(Exception):
    """No device can be asked anything now."""

    def __init__(self, advice: Advice) -> None:
        super().__init__(advice.reason)
        self.advice: Final = advice


class DeviceLostError(Exception):
    """This device can be asked nothing more."""


T = TypeVar("T")


class Calls:
    """Questions about one device; one that it does not support is not asked again."""

    def __init__(self, pynvml: ModuleType, handle: object) -> None:
        self.pynvml: Final = pynvml
        self.handle: Final = handle
        self.refused: dict[str, int] = {}  # question -> return code
        self.failures = 0

    def ask(self, name: str, *arguments: object) -> Any:
        """Return what the function of pynvml returns for the device; None: no answer."""
        if name in self.refused:
            return None
        try:
            return getattr(self.pynvml, name)(self.handle, *arguments)
        except self.pynvml.NVMLError as exc:
            self._judge(name, exc.value)
        except AttributeError:
            self.refused[name] = FUNCTION_NOT_FOUND  # this pynvml does not know it
        except ValueError:
            self.failures += 1  # a text that is not UTF-8
        return None

    def ask_list(self, name: str, *arguments: object) -> list[Any] | None:
        """As ``ask``, for functions that have an error for an empty list."""
        if name in self.refused:
            return None
        try:
            return list(getattr(self.pynvml, name)(self.handle, *arguments))
        except self.pynvml.NVMLError as exc:
            if exc.value in (SUCCESS, NOT_FOUND):
                return []
            self._judge(name, exc.value)
        except AttributeError:
            self.refused[name] = FUNCTION_NOT_FOUND
        return None

    def ask_text(self, name: str) -> str:
        """As ``ask``, bounded and printable; empty: no answer."""
        return bounded(self.ask(name))

    def _judge(self, name: str, code: int) -> None:
        if code in DOWN:
            raise DriverDownError(advice(code))
        if code in LOST:
            raise DeviceLostError
        if code in REFUSED:
            self.refused[name] = code
        else:
            self.failures += 1


def bounded(text: object) -> str:
    """Return a text of the driver with every character visible, cut to ``TEXT_MOST``."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not isinstance(text, str):
        return ""
    shown = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return shown[:TEXT_MOST]


def advice(code: int) -> Advice:
    """Return what a return code of the library as a whole means."""
    return ADVICE.get(code) or Advice(f"NVML failed with error {code}", OTHER_REMEDY)


def has_driver(host: Host) -> bool:
    """Say whether the kernel's part of the driver is loaded."""
    return host.exists(CONTROL_DEVICE) or host.exists(f"{host.procfs}/driver/nvidia")


def library_paths(host: Host, library: str) -> list[str]:
    """Return what may be loaded, best first: the file in the settings, or where it usually is."""
    if library:
        return [library]
    operator = [f"{host.run}/nvidia/driver/{name}" for name in OPERATOR_DIRECTORIES]
    paths = [f"{directory}/{SONAME}" for directory in (*LIBRARY_DIRECTORIES, *operator)]
    found = [path for path in paths if host.exists(path)]
    # The loader knows more directories; it is asked where there is something to ask for.
    return [SONAME, *found] if found or has_driver(host) else []


def load(host: Host, library: str) -> ModuleType | Unavailable:
    """Load the library, then pynvml, which finds it by its soname; initialise nothing."""
    paths = library_paths(host, library)
    if not paths:
        return Unavailable(*ABSENT, absent=True)
    import ctypes  # only where there is something to load

    refusals = []
    for path in paths:
        try:
            ctypes.CDLL(path)
        except OSError as exc:
            refusals.append(bounded(str(exc)))
        else:
            return _import_pynvml()
    if library:
        remedy = f"name the driver's {SONAME} in [nvml] library, or leave it empty"
        return Unavailable(f"cannot load {library}: {refusals[0]}", remedy)
    return Unavailable(*NO_LIBRARY, absent=not has_driver(host))


def initialise(pynvml: ModuleType) -> None:
    """Open the library; as often as this succeeds, ``shut_down`` must be called."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        raise DriverDownError(advice(exc.value)) from exc


def shut_down(pynvml: ModuleType) -> None:
    """Close the library; one that is closed already stays so."""
    try:
        pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return


def _import_pynvml() -> ModuleType | Unavailable:
    try:
        import pynvml
    except ImportError:
        return Unavailable(*NO_MODULE)
    # A project that is dead has the same module's name; its functions end years before ours.
    if not hasattr(pynvml, "nvmlDeviceGetFieldValues"):
        return Unavailable(*NO_MODULE)
    found: ModuleType = pynvml
    return found
