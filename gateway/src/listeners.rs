//! The sockets that the gateway listens on. They are opened here, all before anything starts, or taken over from the
//! process before this one; Pingora and the admin listener get copies. The originals are what the next process gets.

use crate::gateway::RunError;
use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tidegate_config::Address;
use tokio::sync::watch;

/// A socket with the address that the file gives it.
pub(crate) type Named = (String, OwnedFd);

/// All sockets, in the order of their addresses.
pub(crate) struct Listeners {
    open: Mutex<Vec<Named>>,
    /// Files of Unix sockets, and which they were.
    files: Vec<(PathBuf, (u64, u64))>,
}

impl Listeners {
    /// Listens on all these addresses, on sockets of the process before where it has some.
    ///
    /// # Errors
    /// Which address cannot be listened on, why, and what to do.
    pub(crate) fn open<'a>(
        addresses: impl Iterator<Item = &'a Address>,
        mut inherited: Vec<Named>,
    ) -> Result<Self, RunError> {
        let (mut open, mut files) = (Vec::new(), Vec::new());
        for address in addresses {
            let name = address.to_string();
            let taken = inherited.iter().position(|(known, _)| *known == name && is_there(address));
            let socket = match taken {
                Some(at) => inherited.swap_remove(at).1,
                None => bind(address).map_err(|error| refused(address, &error))?,
            };
            if let Address::Unix(path) = address
                && let Ok(file) = fs::metadata(path)
            {
                files.push((path.clone(), (file.dev(), file.ino())));
            }
            open.push((name, socket));
        }
        Ok(Self { open: Mutex::new(open), files })
    }

    /// A copy of the socket at this place.
    pub(crate) fn copy(&self, at: usize) -> io::Result<OwnedFd> {
        let open = self.lock();
        open.get(at).ok_or_else(|| io::Error::from(ErrorKind::NotConnected))?.1.try_clone()
    }

    /// Copies of all.
    pub(crate) fn copies(&self) -> io::Result<Vec<Named>> {
        self.lock().iter().map(|(name, socket)| Ok((name.clone(), socket.try_clone()?))).collect()
    }

    /// Nobody listens here any more, but who has a copy.
    pub(crate) fn close(&self) {
        self.lock().clear();
    }

    /// Removes the files of sockets that nobody listens on any more.
    pub(crate) fn remove_files(&self) {
        for (path, identity) in &self.files {
            let is_ours = fs::metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == *identity);
            if is_ours && let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, path = %path.display(), "the file of a socket stays");
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Named>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether clients can still find it: the file of a Unix socket may have been removed.
fn is_there(address: &Address) -> bool {
    match address {
        Address::Unix(path) => fs::metadata(path).is_ok_and(|file| file.file_type().is_socket()),
        Address::Ip(_) | Address::Name { .. } => true,
    }
}

fn bind(address: &Address) -> io::Result<OwnedFd> {
    let tcp = |listener: TcpListener| listener.set_nonblocking(true).map(|()| OwnedFd::from(listener));
    match address {
        Address::Ip(address) => TcpListener::bind(address).and_then(tcp),
        Address::Name { host, port } => TcpListener::bind((host.as_str(), *port)).and_then(tcp),
        Address::Unix(path) => {
            remove_what_is_left(path)?;
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            Ok(OwnedFd::from(listener))
        }
    }
}

/// A process that was killed leaves the file of its socket, and nobody answers there.
fn remove_what_is_left(path: &Path) -> io::Result<()> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if !is_socket {
        return Ok(());
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

pub(crate) fn refused(address: &Address, error: &io::Error) -> RunError {
    let reason = match error.kind() {
        ErrorKind::AddrInUse => {
            "another process listens there already. Stop that, or choose another address".to_owned()
        }
        ErrorKind::PermissionDenied if matches!(address, Address::Unix(_)) => "not permitted".to_owned(),
        ErrorKind::PermissionDenied => {
            "not permitted. Ports below 1024 need the right to bind them; choose a higher one".to_owned()
        }
        _ => error.to_string(),
    };
    RunError::Listen { address: address.to_string(), reason }
}

/// A service of Pingora's that listens on sockets of ours, from the moment it may.
pub(crate) struct Listening<S> {
    service: S,
    /// By the name that the service has for its endpoint.
    sockets: Vec<Named>,
    may: watch::Receiver<bool>,
}

impl<S> Listening<S> {
    /// `service` on these sockets, once `may` is true.
    pub(crate) fn new(service: S, sockets: Vec<Named>, may: watch::Receiver<bool>) -> Self {
        Self { service, sockets, may }
    }
}

#[async_trait]
impl<S: Service> Service for Listening<S> {
    async fn start_service(&mut self, fds: Option<ListenFds>, shutdown: ShutdownWatch, listeners_per_fd: usize) {
        // Nobody is left to say so: the process ends.
        if self.may.wait_for(|may| *may).await.is_err() {
            return;
        }
        if let Some(fds) = &fds {
            let mut fds = fds.lock();
            for (name, socket) in self.sockets.drain(..) {
                fds.add(name, socket.into_raw_fd());
            }
        }
        self.service.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    fn any() -> Address {
        Address::Ip(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn at(socket: &OwnedFd) -> SocketAddr {
        TcpListener::from(socket.try_clone().unwrap()).local_addr().unwrap()
    }

    #[test]
    fn what_the_process_before_listens_on_is_taken_over_and_the_rest_is_opened() {
        let old = Listeners::open([any()].iter(), Vec::new()).unwrap();
        let new = Listeners::open([any(), any()].iter(), old.copies().unwrap()).unwrap();
        let [first, second] = [0, 1].map(|place| at(&new.copy(place).unwrap()));
        assert_eq!(first, at(&old.copy(0).unwrap()));
        assert_ne!(second, first);
    }

    #[test]
    fn an_address_that_is_taken_is_told_with_what_to_do() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Ip(taken.local_addr().unwrap());
        let error = Listeners::open([address].iter(), Vec::new()).err().unwrap().to_string();
        assert!(error.contains("another process listens there already"), "{error}");
    }

    #[test]
    fn a_socket_left_by_a_killed_process_is_replaced_and_one_in_use_is_not() {
        let path = std::env::temp_dir().join(format!("tidegate-listeners-{}.sock", std::process::id()));
        drop(fs::remove_file(&path));
        drop(UnixListener::bind(&path).unwrap());
        let address = Address::Unix(path.clone());
        let open = Listeners::open([address.clone()].iter(), Vec::new()).unwrap();
        assert!(Listeners::open([address].iter(), Vec::new()).is_err(), "somebody listens there");
        open.close();
        open.remove_files();
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_socket_is_never_removed() {
        let path = std::env::temp_dir().join(format!("tidegate-listeners-{}.txt", std::process::id()));
        fs::write(&path, "a diary").unwrap();
        assert!(Listeners::open([Address::Unix(path.clone())].iter(), Vec::new()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a diary");
        fs::remove_file(&path).unwrap();
    }
}
