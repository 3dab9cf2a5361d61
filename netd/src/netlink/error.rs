//! What the kernel refuses, so that a caller can tell the cases apart.

use std::io;

use nix::errno::Errno;

/// The kernel's answer to a request that it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    /// What the kernel says beyond the number, where it says something (extended acknowledgements).
    pub(super) reason: Option<String>,
}

impl Refusal {
    pub(super) fn new(errno: Errno) -> Self {
        Self { errno, reason: None }
    }

    pub(super) fn is_gone(&self) -> bool {
        gone(self.errno)
    }

    pub(super) fn while_doing(self, doing: impl Into<String>) -> Error {
        Error { doing: doing.into(), errno: self.errno, reason: self.reason }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(number) => Self::new(Errno::from_raw(number)),
            None => Self { errno: Errno::EIO, reason: Some(error.to_string()) },
        }
    }
}

/// A request that the kernel refused: what was being done, to what, and why not. Its display is one line with all of it.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {}{}", errno.desc(), reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
pub struct Error {
    doing: String,
    errno: Errno,
    reason: Option<String>,
}

impl Error {
    /// The kernel's error number.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

/// Whether an error means that the link, route or namespace in question is gone.
pub fn is_gone(error: &anyhow::Error) -> bool {
    errno_of(error).is_some_and(gone)
}

/// Whether an error means that something of that name or address exists already.
pub fn exists(error: &anyhow::Error) -> bool {
    errno_of(error) == Some(Errno::EEXIST)
}

fn gone(errno: Errno) -> bool {
    matches!(errno, Errno::ENODEV | Errno::ESRCH | Errno::ENOENT)
}

fn errno_of(error: &anyhow::Error) -> Option<Errno> {
    error.chain().find_map(|cause| {
        if let Some(refused) = cause.downcast_ref::<Error>() {
            return Some(refused.errno);
        }
        cause.downcast_ref::<io::Error>()?.raw_os_error().map(Errno::from_raw)
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn one_line_with_all_of_it() {
        let plain = Refusal::new(Errno::EEXIST).while_doing("creating link a (veth)");
        assert_eq!(plain.to_string(), "creating link a (veth): File exists");
        let explained = Refusal { errno: Errno::EINVAL, reason: Some("Invalid prefix length".into()) };
        assert_eq!(
            explained.while_doing("adding address").to_string(),
            "adding address: Invalid argument (Invalid prefix length)"
        );
    }

    #[test]
    fn cases_are_told_apart_below_any_context() {
        let error = |errno| anyhow::Error::from(Refusal::new(errno).while_doing("x")).context("further out");
        assert!(is_gone(&error(Errno::ENODEV)) && is_gone(&error(Errno::ESRCH)));
        assert!(exists(&error(Errno::EEXIST)));
        assert!(!is_gone(&error(Errno::EEXIST)) && !exists(&error(Errno::EPERM)));
        let io = Err::<(), _>(io::Error::from_raw_os_error(2)).context("opening").unwrap_err();
        assert!(is_gone(&io));
        assert!(!is_gone(&anyhow::anyhow!("anything else")));
    }
}
