//! The few numbers of the operating system that the standard library does not name: error codes
//! that decide what a failed `accept` or `connect` means, and the flag that keeps a write from
//! raising SIGPIPE. Used by every stream below the reactor.

use std::ffi::c_int;

/// The process has no descriptor left. The same number on every supported system.
pub(crate) const EMFILE: c_int = 24;
/// The system has no descriptor left. The same number on every supported system.
pub(crate) const ENFILE: c_int = 23;
/// The kernel has no memory left. The same number on every supported system.
pub(crate) const ENOMEM: c_int = 12;

pub(crate) use platform::{EINPROGRESS, ENOBUFS, EPROTO, MSG_NOSIGNAL};

/// Linux and Android on the architectures that share the generic error table.
#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(any(
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "mips32r6",
        target_arch = "mips64r6",
        target_arch = "sparc",
        target_arch = "sparc64"
    ))
))]
mod platform {
    use std::ffi::c_int;

    /// No buffer space in the kernel.
    pub(crate) const ENOBUFS: c_int = 105;
    /// A connection in the accept queue met a protocol error.
    pub(crate) const EPROTO: c_int = 71;
    /// A non-blocking connect has begun.
    pub(crate) const EINPROGRESS: c_int = 115;
    /// A write to a closed peer returns EPIPE and raises no signal.
    pub(crate) const MSG_NOSIGNAL: c_int = 0x4000;
}

/// Linux on MIPS, which kept the error table of IRIX.
#[cfg(all(
    target_os = "linux",
    any(
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "mips32r6",
        target_arch = "mips64r6"
    )
))]
mod platform {
    use std::ffi::c_int;

    /// No buffer space in the kernel.
    pub(crate) const ENOBUFS: c_int = 132;
    /// A connection in the accept queue met a protocol error.
    pub(crate) const EPROTO: c_int = 71;
    /// A non-blocking connect has begun.
    pub(crate) const EINPROGRESS: c_int = 150;
    /// A write to a closed peer returns EPIPE and raises no signal.
    pub(crate) const MSG_NOSIGNAL: c_int = 0x4000;
}

/// The BSD family, Apple's systems included.
#[cfg(any(
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
))]
mod platform {
    use std::ffi::c_int;

    /// No buffer space in the kernel.
    pub(crate) const ENOBUFS: c_int = 55;
    /// A non-blocking connect has begun.
    pub(crate) const EINPROGRESS: c_int = 36;

    /// A connection in the accept queue met a protocol error.
    #[cfg(target_vendor = "apple")]
    pub(crate) const EPROTO: c_int = 100;
    /// A connection in the accept queue met a protocol error.
    #[cfg(any(target_os = "freebsd", target_os = "dragonfly"))]
    pub(crate) const EPROTO: c_int = 92;
    /// A connection in the accept queue met a protocol error.
    #[cfg(target_os = "netbsd")]
    pub(crate) const EPROTO: c_int = 96;
    /// A connection in the accept queue met a protocol error.
    #[cfg(target_os = "openbsd")]
    pub(crate) const EPROTO: c_int = 95;

    /// No such flag here: the option SO_NOSIGPIPE on each stream does the same.
    #[cfg(target_vendor = "apple")]
    pub(crate) const MSG_NOSIGNAL: c_int = 0;
    /// A write to a closed peer returns EPIPE and raises no signal.
    #[cfg(target_os = "freebsd")]
    pub(crate) const MSG_NOSIGNAL: c_int = 0x2_0000;
    /// A write to a closed peer returns EPIPE and raises no signal.
    #[cfg(any(target_os = "dragonfly", target_os = "netbsd", target_os = "openbsd"))]
    pub(crate) const MSG_NOSIGNAL: c_int = 0x400;
}
