//! Whose file an ipc path is, wildcards and abstract names.

use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs};

use super::super::endpoint::{Endpoint, IpcAddress, IpcEndpoint};
use super::super::ipc;
use super::super::net::TransportOptions;
use super::{Side, accept, options};

/// The ipc endpoint of a path.
fn ipc_endpoint(path: &Path) -> IpcEndpoint {
    IpcEndpoint { address: IpcAddress::Path(path.to_str().unwrap().to_owned()) }
}

/// A directory of its own for each test, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("peermq-test-{}-{number}", std::process::id());
        let path = env::temp_dir().join(name);
        // Left by an earlier process of this number.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_stale_ipc_file_is_replaced_and_a_live_one_refused() {
    let scratch = Scratch::new();
    let path = scratch.0.join("a");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the standard library leaves the file behind");
    let endpoint = ipc_endpoint(&path);
    let (mut listener, real) = ipc::bind(&endpoint, &options()).unwrap();
    assert_eq!(real, Endpoint::Ipc(endpoint.clone()));
    let identity = fs::metadata(&path).unwrap().ino();

    let error = ipc::bind(&endpoint, &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    assert_eq!(fs::metadata(&path).unwrap().ino(), identity);
    // The live one goes on; the probe of the second binder waits first in its queue.
    let _client = Side::new(ipc::connect(&endpoint, &options()).unwrap()).connected().unwrap();
    accept(&mut listener, &options());
    accept(&mut listener, &options());
}

#[test]
fn a_live_ipc_listener_with_a_full_backlog_is_refused_too() {
    let scratch = Scratch::new();
    let endpoint = ipc_endpoint(&scratch.0.join("a"));
    let narrow = TransportOptions { backlog: 0, ..options() };
    let (_listener, _) = ipc::bind(&endpoint, &narrow).unwrap();
    let mut waiting = Vec::new();
    let error = loop {
        match ipc::connect(&endpoint, &options()) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    let error = ipc::bind(&endpoint, &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
}

#[test]
fn a_file_or_link_at_the_path_stays_untouched() {
    let scratch = Scratch::new();
    let file = scratch.0.join("file");
    fs::write(&file, "precious").unwrap();
    let stale = scratch.0.join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let link = scratch.0.join("link");
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    for path in [&file, &link, &scratch.0] {
        let error = ipc::bind(&ipc_endpoint(path), &options()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{}", path.display());
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(stale.exists());
}

#[test]
fn a_listener_removes_its_own_file_and_no_successors() {
    let scratch = Scratch::new();
    let path = scratch.0.join("a");
    let endpoint = ipc_endpoint(&path);
    let (listener, _) = ipc::bind(&endpoint, &options()).unwrap();
    assert!(path.exists());
    drop(listener);
    assert!(!path.exists());

    let (listener, _) = ipc::bind(&endpoint, &options()).unwrap();
    fs::remove_file(&path).unwrap();
    let (_successor, _) = ipc::bind(&endpoint, &options()).unwrap();
    drop(listener);
    assert!(path.exists());
    ipc::connect(&endpoint, &options()).unwrap();
}

#[test]
fn of_many_binders_to_a_stale_path_exactly_one_wins() {
    let scratch = Scratch::new();
    // One round hardly ever meets the race; this many do.
    for round in 0..300 {
        let path = scratch.0.join(round.to_string());
        drop(UnixListener::bind(&path).unwrap());
        let endpoint = ipc_endpoint(&path);
        let start = Barrier::new(4);
        let bind = || {
            start.wait();
            ipc::bind(&endpoint, &options())
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let binders: Vec<_> = (0..4).map(|_| scope.spawn(bind)).collect();
            binders.into_iter().map(|binder| binder.join().unwrap()).collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
        let mut refused = results.iter().filter_map(|result| result.as_ref().err());
        assert!(refused.all(|error| error.kind() == ErrorKind::AddrInUse));
        ipc::connect(&endpoint, &options()).unwrap();
    }
}

#[test]
fn an_ipc_wildcard_binds_in_a_private_directory_and_leaves_nothing() {
    let wildcard = IpcEndpoint { address: IpcAddress::Wildcard };
    assert_eq!(ipc::connect(&wildcard, &options()).unwrap_err().kind(), ErrorKind::InvalidInput);
    let (mut listener, real) = ipc::bind(&wildcard, &options()).unwrap();
    let (_other, other) = ipc::bind(&wildcard, &options()).unwrap();
    assert_ne!(real, other);
    assert_eq!(real.to_string().parse::<Endpoint>().as_ref(), Ok(&real));
    let Endpoint::Ipc(endpoint) = &real else { panic!("{real:?}") };
    let IpcAddress::Path(path) = &endpoint.address else { panic!("{endpoint:?}") };
    let directory = PathBuf::from(path).parent().unwrap().to_path_buf();
    assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let _client = Side::new(ipc::connect(endpoint, &options()).unwrap()).connected().unwrap();
    accept(&mut listener, &options());
    drop(listener);
    assert!(!directory.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn an_abstract_name_has_no_file_and_is_free_again_after_close() {
    let name = format!("peermq-test-{}", std::process::id());
    let endpoint = IpcEndpoint { address: IpcAddress::Abstract(name.clone()) };
    let (mut listener, real) = ipc::bind(&endpoint, &options()).unwrap();
    assert_eq!(real.to_string(), format!("ipc://@{name}"));
    let error = ipc::bind(&endpoint, &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AddrInUse);
    let client = Side::new(ipc::connect(&endpoint, &options()).unwrap()).connected().unwrap();
    assert_eq!(client.stream.peer_address(), format!("@{name}"));
    accept(&mut listener, &options());
    drop(listener);
    let error = ipc::connect(&endpoint, &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    ipc::bind(&endpoint, &options()).unwrap();
}

#[test]
fn a_connect_to_an_ipc_path_without_a_listener_fails_at_once() {
    let scratch = Scratch::new();
    let path = scratch.0.join("a");
    let error = ipc::connect(&ipc_endpoint(&path), &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    drop(UnixListener::bind(&path).unwrap());
    let error = ipc::connect(&ipc_endpoint(&path), &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
