//! netd's program and network tests.
