//! ipc: Unix-domain sockets named by a path, a fresh private path, or a Linux abstract name.
//!
//! Used by `bind` and the dialer. A path is a shared name that outlives its owner, so most of
//! this module is about whose file it is: a listener never takes the file of a live one, and
//! never removes a file that is not its own.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::endpoint::{Endpoint, IpcAddress, IpcEndpoint};
use super::net::{self, Listener, Stream, TransportOptions};

/// Fresh names tried for the directory of a wildcard before giving up.
const FRESH_DIRECTORY_TRIES: usize = 8;

/// How often, and with which pause, the lock on a directory is tried. Tests count on it, however long its holder stands still.
const LOCK_TRIES: usize = if cfg!(test) { 60_000 } else { 1_000 };
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// Removes the file of a listener when dropped, if it is still that listener's file.
#[derive(Debug)]
pub(crate) struct IpcGuard {
    /// Where the file is; absolute, so that a later change of directory does not matter.
    path: PathBuf,
    /// Device and inode of the file. The bound socket keeps the inode in use, so no other file
    /// gets the same pair while the listener lives.
    identity: (u64, u64),
    /// The private directory around it, removed after the file.
    _directory: Option<DirectoryGuard>,
}

impl Drop for IpcGuard {
    fn drop(&mut self) {
        if file_identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Nobody is left to hear of a failure; the next binder finds the file stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes an empty directory when dropped.
#[derive(Debug)]
struct DirectoryGuard(PathBuf);

impl Drop for DirectoryGuard {
    fn drop(&mut self) {
        // Fails if something else was put there, which is then not ours to remove.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Binds and listens. Returns the listener and the real endpoint, which names the fresh path for
/// `ipc://*`. A socket file that nobody listens on is replaced; the file is removed when the
/// listener is dropped.
///
/// Blocks while another process binds in the same directory. Errors: `AddrInUse` if someone
/// listens there, `AlreadyExists` if the path is something other than a socket, `Unsupported`
/// for an abstract name outside Linux, else what the system said.
pub(crate) fn bind(
    endpoint: &IpcEndpoint,
    options: &TransportOptions,
) -> io::Result<(Listener, Endpoint)> {
    let (listener, address) = match &endpoint.address {
        IpcAddress::Path(path) => (bind_path(path, None, options)?, endpoint.address.clone()),
        IpcAddress::Abstract(name) => {
            let listener = listen(&abstract_address(name)?, options)?;
            (Listener::Ipc { _guard: None, listener }, endpoint.address.clone())
        }
        IpcAddress::Wildcard => {
            let directory = fresh_directory()?;
            let path = directory.0.join("socket");
            let path = path.to_str().ok_or_else(|| {
                io::Error::new(ErrorKind::InvalidInput, "the temporary directory is not UTF-8")
            })?;
            let path = path.to_owned();
            (bind_path(&path, Some(directory), options)?, IpcAddress::Path(path))
        }
    };
    Ok((listener, Endpoint::Ipc(IpcEndpoint { address })))
}

/// Binds to a path in the file system.
fn bind_path(
    path: &str,
    directory: Option<DirectoryGuard>,
    options: &TransportOptions,
) -> io::Result<Listener> {
    let address = SockAddr::unix(path)?;
    let absolute = path::absolute(path)?;
    // Held to the end of this function: between the check and the bind, no other binder may
    // remove or create the file.
    let _lock = lock_parent(&absolute)?;
    clear_stale(&absolute, &address)?;
    let socket = open(options)?;
    socket.bind(&address)?;
    let identity = file_identity(&absolute)?;
    let guard = Some(IpcGuard { path: absolute, identity, _directory: directory });
    socket.listen(options.backlog_or_max())?;
    Ok(Listener::Ipc { _guard: guard, listener: UnixListener::from(socket) })
}

/// Takes the exclusive lock on the directory of `path`, held until the file is dropped. Binders hold it for a moment only; if
/// it is not to be had for long, somebody else locks the directory for reasons of his own, and must not keep us from
/// binding: then `None`.
fn lock_parent(path: &Path) -> io::Result<Option<File>> {
    let parent = path.parent().ok_or_else(|| {
        io::Error::new(ErrorKind::InvalidInput, "the root directory is no socket")
    })?;
    let directory = File::open(parent)?;
    for _ in 0..LOCK_TRIES {
        match directory.try_lock() {
            Ok(()) => return Ok(Some(directory)),
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_PAUSE),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(None)
}

/// Makes way for a bind: removes a socket file that nobody listens on and refuses anything else.
/// Links are not followed. Runs under the lock of the directory.
fn clear_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if !metadata.file_type().is_socket() {
        let message = "the path exists and is no socket";
        return Err(io::Error::new(ErrorKind::AlreadyExists, message));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    net::prepare(&probe)?;
    match probe.connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => remove_if_present(path),
        // Its owner removed it just now.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        // Connected, or the accept queue is full, or a socket of another type is bound there.
        _ => Err(io::Error::new(ErrorKind::AddrInUse, "someone listens on this path")),
    }
}

/// Removes a file; one that is gone already will do too.
fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Device and inode of a file; of a link itself, not of its target.
fn file_identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Creates a directory with an unguessable name that only this user can enter.
fn fresh_directory() -> io::Result<DirectoryGuard> {
    let parent = path::absolute(std::env::temp_dir())?;
    let mut failure = io::Error::from(ErrorKind::AlreadyExists);
    for attempt in 0..FRESH_DIRECTORY_TRIES {
        // Keyed by the randomness of the system, so that the hash of anything is unguessable.
        let random = RandomState::new().hash_one((std::process::id(), attempt));
        let path = parent.join(format!("peermq-{random:016x}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(DirectoryGuard(path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

/// The socket address of a name in the abstract namespace.
fn abstract_address(name: &str) -> io::Result<SockAddr> {
    if !cfg!(any(target_os = "linux", target_os = "android")) {
        return Err(io::Error::new(ErrorKind::Unsupported, "abstract names exist on Linux only"));
    }
    SockAddr::unix(format!("\0{name}"))
}

/// Creates a non-blocking stream socket with the options that apply to ipc.
fn open(options: &TransportOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    net::prepare(&socket)?;
    options.apply_buffers(&socket)?;
    Ok(socket)
}

/// Binds to an address that leaves no file behind, and listens.
fn listen(address: &SockAddr, options: &TransportOptions) -> io::Result<UnixListener> {
    let socket = open(options)?;
    socket.bind(address)?;
    socket.listen(options.backlog_or_max())?;
    Ok(UnixListener::from(socket))
}

/// Starts a non-blocking connect, which on most systems is decided at once; ask
/// [`Stream::finish_connect`] after the first writable event all the same.
///
/// Errors: `ConnectionRefused` if nobody listens or the listener's backlog is full (both worth
/// another try later), `NotFound` if there is no such path, `InvalidInput` for `ipc://*`.
pub(crate) fn connect(endpoint: &IpcEndpoint, options: &TransportOptions) -> io::Result<Stream> {
    let address = match &endpoint.address {
        IpcAddress::Path(path) => SockAddr::unix(path)?,
        IpcAddress::Abstract(name) => abstract_address(name)?,
        IpcAddress::Wildcard => {
            let error = Endpoint::Ipc(endpoint.clone()).check_connect().err();
            return Err(error.map_or(ErrorKind::InvalidInput.into(), |error| {
                io::Error::new(ErrorKind::InvalidInput, error)
            }));
        }
    };
    let socket = open(options)?;
    match socket.connect(&address) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(io::Error::new(ErrorKind::ConnectionRefused, "the listener's backlog is full"))
        }
        Err(error) if !net::is_in_progress(&error) => Err(error),
        _ => Ok(Stream::Ipc(UnixStream::from(socket))),
    }
}
