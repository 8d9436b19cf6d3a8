"""Takes away from this process, for good, what reading hostile content does not need: network, new programs, files.

In this order, each on its own and each reported as done or not done, never passed over in silence:
1. its own network and IPC namespaces, without interfaces (`unshare`; needs a process with one thread)
2. no core dumps: weights and prompts stay in memory
3. no new privileges, in this process and in its children (`prctl`)
4. a system call filter for all its threads (`seccomp`): no sockets, no programs, no child processes, no signals to
   others, no tracing, no mounts, no kernel interfaces that go around the filter; and no writing, or no opening at all,
   of files

Refused calls fail with EPERM, so that a mistake is an error and not a hang. What is open stays usable: descriptors,
mappings, threads. Linux on x86-64 and aarch64; elsewhere everything is reported as not done. There is no way back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import struct
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

Files = Literal["any", "read", "none"]


class Confinement(NamedTuple):
    """Sentences for a person: what this process can no longer do, and what could not be taken away and why."""

    done: tuple[str, ...]
    missing: tuple[str, ...]


def confine(*, files: Files, namespaces: bool = True) -> Confinement:
    """`files`: "read" forbids every change to the file system, "none" forbids opening files as well.

    May be called again with less; a filter once set is never taken back.
    """
    done: list[str] = []
    missing: list[str] = []
    steps: list[tuple[str, Callable[[], None]]] = [("no core dumps", _no_core)]
    if namespaces:
        steps.insert(0, ("no network interfaces", _own_namespaces))
    steps += [("no new privileges", _no_new_privileges), (_FILTERED[files], lambda: _filter(files))]
    for name, step in steps:
        try:
            step()
            done.append(name)
        except OSError as error:
            missing.append(f"{name}: {error.strerror or error}")
    return Confinement(done=tuple(done), missing=tuple(missing))


def without_network() -> tuple[str, ...]:
    """For a child that reads a stranger's files and only reports: "read". Returns what could not be done."""
    return confine(files="read").missing


def die_with_parent(parent: int) -> None:
    """The kernel kills this process when the thread that started it ends; at once if `parent` (a pid) has gone."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


# -- the steps

_FILTERED = {
    "any": "no sockets, programs, processes, tracing",
    "read": "no sockets, programs, processes, tracing, changes to files",
    "none": "no sockets, programs, processes, tracing, opening of files",
}
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
# linux/sched.h
_CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET, _CLONE_THREAD = 0x08000000, 0x10000000, 0x40000000, 0x10000


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _linux() -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, f"not known for {sys.platform}")


def _prctl(option: int, value: int) -> None:
    _check(_libc().prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def _no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _no_new_privileges() -> None:
    _linux()
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _own_namespaces() -> None:
    """Root needs no user namespace and keeps its rights to files; others map themselves to themselves in a new one."""
    _linux()
    if threading.active_count() > 1:
        raise OSError(errno.EINVAL, "the process has several threads already")
    libc = _libc()
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET | _CLONE_NEWIPC) == 0:
        return
    _check(libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET | _CLONE_NEWIPC))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _unwinder() -> None:
    """glibc's pthread_exit(3), with which Python up to 3.13 ends the threads that it finds at its own end, opens this
    library when it is first called, and aborts the process where it cannot."""
    with contextlib.suppress(OSError):  # another C library
        ctypes.CDLL("libgcc_s.so.1")


def _filter(files: Files) -> None:
    _linux()
    if files == "none":
        _unwinder()
    machine = os.uname().machine
    if machine not in _MACHINES or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"not known for {machine}")
    program = _program(files, *_MACHINES[machine])
    code = ctypes.create_string_buffer(program)
    # struct sock_fprog
    head = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    number = _MACHINES[machine][1]["seccomp"]
    # seccomp(SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC): all threads, or none; > 0 names a thread that cannot
    result = _libc().syscall(ctypes.c_long(number), ctypes.c_ulong(1), ctypes.c_ulong(1), head)
    if result > 0:
        raise OSError(errno.ESRCH, f"thread {result} does not take the filter")
    _check(result)


# -- the filter, as classic BPF (linux/filter.h, linux/seccomp.h)

_LD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000  # the other numbering of system calls on x86-64
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def _program(files: Files, arch: int, calls: dict[str, int]) -> bytes:
    def ins(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("<HBBI", code, yes, no, k)

    def refuse(number: int, error: int) -> bytes:
        return ins(_JEQ, number, 0, 1) + ins(_RET, _ERRNO | error)

    def refuse_by_argument(number: int, argument: int, bits: int, error: int, *, when_set: bool) -> bytes:
        test = ins(_JSET, bits, 0, 1) if when_set else ins(_JSET, bits, 1, 0)
        end = ins(_RET, _ERRNO | error) + ins(_RET, _ALLOW)
        return ins(_JEQ, number, 0, 4) + ins(_LD, _ARGS + 8 * argument) + test + end

    program = ins(_LD, _ARCH) + ins(_JEQ, arch, 1, 0) + ins(_RET, _KILL) + ins(_LD, _NR)
    program += ins(_JGE, _X32, 0, 1) + ins(_RET, _ERRNO | errno.EPERM)
    refused: Iterable[str] = _ALWAYS if files == "any" else (*_ALWAYS, *_CHANGES)
    if files == "none":
        refused = (*refused, *_OPENS)
    program += b"".join(refuse(calls[name], errno.EPERM) for name in refused if name in calls)
    # Arguments behind a pointer cannot be read here: "no such call" makes the C library use the older form.
    program += refuse(calls["clone3"], errno.ENOSYS)
    program += refuse_by_argument(calls["clone"], 0, _CLONE_THREAD, errno.EPERM, when_set=False)
    if files == "read":
        program += refuse(calls["openat2"], errno.ENOSYS)
        for name, argument in (("open", 1), ("openat", 2)):
            if name in calls:
                program += refuse_by_argument(calls[name], argument, _WRITING, errno.EPERM, when_set=True)
    return program + ins(_RET, _ALLOW)


_ALWAYS = """
    socket socketpair bind connect listen accept accept4
    execve execveat fork vfork uselib ptrace process_vm_readv process_vm_writev kill rt_sigqueueinfo rt_tgsigqueueinfo
    pidfd_open pidfd_getfd pidfd_send_signal
    unshare setns mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
    bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register add_key request_key keyctl
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct quotactl personality
    name_to_handle_at open_by_handle_at
""".split()  # noqa: SIM905
_CHANGES = """
    creat truncate rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat mknod
    mknodat chmod fchmodat fchmodat2 chown lchown fchownat utime utimes futimesat utimensat
    setxattr lsetxattr removexattr lremovexattr
""".split()  # noqa: SIM905
_OPENS = ("open", "openat", "openat2")

_COMMON = {  # numbers since 424 are the same everywhere
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_open": 434, "clone3": 435,
    "openat2": 437, "pidfd_getfd": 438, "mount_setattr": 442, "fchmodat2": 452,
}  # fmt: skip
_X86_64 = _COMMON | {  # arch/x86/entry/syscalls/syscall_64.tbl
    "open": 2, "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "clone": 56,
    "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84,
    "creat": 85, "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "chown": 92, "lchown": 94, "ptrace": 101,
    "rt_sigqueueinfo": 129, "utime": 132, "mknod": 133, "uselib": 134, "personality": 135, "pivot_root": 155,
    "chroot": 161, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169,
    "init_module": 175, "delete_module": 176, "quotactl": 179, "setxattr": 188, "lsetxattr": 189, "removexattr": 197,
    "lremovexattr": 198, "utimes": 235, "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250,
    "openat": 257, "mkdirat": 258, "mknodat": 259, "fchownat": 260, "futimesat": 261, "unlinkat": 263, "renameat": 264,
    "linkat": 265, "symlinkat": 266, "fchmodat": 268, "unshare": 272, "utimensat": 280, "accept4": 288,
    "rt_tgsigqueueinfo": 297, "perf_event_open": 298, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "finit_module": 313, "renameat2": 316, "seccomp": 317,
    "kexec_file_load": 320, "bpf": 321, "execveat": 322, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = _COMMON | {  # include/uapi/asm-generic/unistd.h
    "setxattr": 5, "lsetxattr": 6, "removexattr": 14, "lremovexattr": 15, "mknodat": 33, "mkdirat": 34, "unlinkat": 35,
    "symlinkat": 36, "linkat": 37, "renameat": 38, "umount2": 39, "mount": 40, "pivot_root": 41, "truncate": 45,
    "chroot": 51, "fchmodat": 53, "fchownat": 54, "openat": 56, "quotactl": 60, "utimensat": 88, "acct": 89,
    "personality": 92, "unshare": 97, "kexec_load": 104, "init_module": 105, "delete_module": 106, "ptrace": 117,
    "kill": 129, "rt_sigqueueinfo": 138, "reboot": 142, "socket": 198, "socketpair": 199, "bind": 200, "listen": 201,
    "accept": 202, "connect": 203, "add_key": 217, "request_key": 218, "keyctl": 219, "clone": 220, "execve": 221,
    "swapon": 224, "swapoff": 225, "rt_tgsigqueueinfo": 240, "perf_event_open": 241, "accept4": 242,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "finit_module": 273, "renameat2": 276, "seccomp": 277, "bpf": 280, "execveat": 281,
    "userfaultfd": 282, "kexec_file_load": 294,
}  # fmt: skip
_MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}  # linux/audit.h
