//! The socket that the daemon answers at.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net,
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use nix::sys::{
    socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket},
    stat::{Mode, fchmod},
};
use tokio::net::UnixListener;

/// A socket's file; removed when this is dropped, if it is still the same.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| now.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Checks that a socket can be made at `path`, before anything else is changed.
///
/// # Errors
/// A daemon answers there, or something that is no socket is there.
pub(super) fn check(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
        Ok(found) if !found.file_type().is_socket() => {
            bail!("{} exists and is not a socket: choose another path with --socket", path.display())
        }
        Ok(_) if net::UnixStream::connect(path).is_ok() => {
            bail!("a daemon answers at {} already: choose another path with --socket", path.display())
        }
        // Left over by a daemon that was killed.
        Ok(_) => Ok(()),
    }
}

/// Listens at `path`, for the user that runs the daemon only (mode 0600).
///
/// # Errors
/// As [`check`], or the file cannot be made.
pub(super) fn open(path: &Path) -> Result<(UnixListener, SocketFile)> {
    check(path)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove the stale socket {}", path.display()));
        }
        _ => {}
    }
    let what = || format!("cannot listen at {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(what)?;
    }
    let listener = bound(path).with_context(what)?;
    let inode = fs::symlink_metadata(path).with_context(what)?.ino();
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}

fn bound(path: &Path) -> io::Result<UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // The file gets the mode that the socket has when it is bound (net/unix/af_unix.c): so there is no moment at which
    // others can connect.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::MAXCONN)?;
    UnixListener::from_std(net::UnixListener::from(fd))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("below/netd.sock");
        let (listener, file) = open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(open(&path).unwrap_err().to_string().contains("a daemon answers at"));

        // As after SIGKILL: the file is there, and nobody listens.
        drop(listener);
        std::mem::forget(file);
        assert!(path.exists());
        let (_listener, file) = open(&path).unwrap();
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn another_file_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netd.sock");
        fs::write(&path, "precious").unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("is not a socket"));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
