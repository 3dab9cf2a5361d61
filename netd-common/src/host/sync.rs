//! What several threads use at once. Each use is a point at which a schedule may have another thread go on (see
//! [`super::schedule`]), as a map of the kernel's is used by several CPUs: one operation is one step.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::schedule;

/// A table. Borrowed as a `RefCell` is, only that others wait.
#[derive(Debug, Default)]
pub struct Table<T>(RwLock<T>);

impl<T> Table<T> {
    /// One that holds this.
    pub const fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// To read.
    pub fn borrow(&self) -> RwLockReadGuard<'_, T> {
        schedule::point();
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To write.
    pub fn borrow_mut(&self) -> RwLockWriteGuard<'_, T> {
        schedule::point();
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value that is read and replaced as a whole.
#[derive(Debug, Default)]
pub struct Value<T>(RwLock<T>);

impl<T: Copy> Value<T> {
    /// One that is this.
    pub const fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    /// What it is.
    pub fn get(&self) -> T {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it another.
    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Makes it what `next` makes of it, and returns that.
    pub fn update(&self, next: impl FnOnce(T) -> T) -> T {
        let mut value = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *value = next(*value);
        *value
    }
}
