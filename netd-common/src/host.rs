//! Packets and tables in memory: what the core runs on in tests on the host, without a kernel.
