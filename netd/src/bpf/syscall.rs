//! Commands of bpf(2) that aya does not offer: reading a hash map many entries at a time, and detaching a link at once.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    ptr,
};

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_map_type, bpf_prog_type};

/// Entries asked for at once. The kernel returns whole buckets, and says ENOSPC if one does not fit.
const BATCH: usize = 4096;

/// A walk over the entries of a hash map (`BPF_MAP_LOOKUP_BATCH`, kernel 5.6): one by one, a table of 250,000 flows would
/// take two seconds of system calls. Entries that come and go meanwhile may be seen or not.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Where the next batch begins: for a hash map, the number of a bucket. None: at the beginning.
    position: Option<u32>,
}

impl Walk {
    /// Calls `each` with the entries of the next batch. Whether there are more; if not, the next walk begins.
    ///
    /// `K` and `V` are the map's own types: every bit pattern must be a valid value of them.
    pub(super) fn step<K: Copy + Default, V: Clone + Default>(
        &mut self,
        map: &MapData,
        mut each: impl FnMut(&K, &V),
    ) -> Result<bool> {
        let info = map.info().context("asking for a map")?;
        assert_eq!((info.key_size() as usize, info.value_size() as usize), (size_of::<K>(), size_of::<V>()));
        let mut keys = vec![K::default(); BATCH];
        let mut values = vec![V::default(); BATCH];
        let position = self.position.take();
        let mut next = 0u32;
        // SAFETY: an all-zero bpf_attr is valid; every union member is plain data.
        let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the batch member is the one that this command reads and writes.
        let batch = unsafe { &mut attr.batch };
        batch.in_batch = position.as_ref().map_or(0, |position| ptr::from_ref(position) as u64);
        batch.out_batch = &raw mut next as u64;
        batch.keys = keys.as_mut_ptr() as u64;
        batch.values = values.as_mut_ptr() as u64;
        batch.count = BATCH as u32;
        batch.map_fd = map.fd().as_fd().as_raw_fd() as u32;
        // SAFETY: the buffers hold BATCH entries of the sizes that were compared with the map's above; the kernel writes at
        // most `count` of them. All of them outlive the call.
        let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
        let end = matches!(&result, Err(error) if error.raw_os_error() == Some(libc::ENOENT));
        if !end {
            result.context("reading a map in batches")?;
            self.position = Some(next);
        }
        // SAFETY: as above; the kernel has set the count of entries that it wrote.
        let count = unsafe { attr.batch.count } as usize;
        for (key, value) in keys.iter().zip(&values).take(count.min(BATCH)) {
            each(key, value);
        }
        Ok(!end)
    }
}

/// Waits until no program runs any more that runs now: an RCU grace period, some milliseconds. Where the kernel cannot say
/// (`nohz_full`), it does not wait.
pub(super) fn wait_for_programs() {
    // SAFETY: a system call that takes numbers alone.
    unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
}

/// Whether something is pinned at a path, and is a link: by the name that the kernel gives the file (`bpf_link_new_fd`).
pub(super) fn is_link(path: &Path) -> bool {
    let name = |pinned: OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", pinned.as_raw_fd()));
    open_link(path).and_then(name).is_ok_and(|name| name.to_string_lossy().contains("link"))
}

/// Detaches a pinned link (`BPF_LINK_DETACH`, kernel 5.9). Removing its last name does that too, but some time later, and
/// until then the interface runs the program.
pub(super) fn detach_link(path: &Path) -> io::Result<()> {
    let link = open_link(path)?;
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    // SAFETY: the command reads a descriptor, which is open.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Whether the kernel has links at TC's hooks (`BPF_TCX_INGRESS`, Linux 6.6; others have them by their distributions).
pub(super) fn has_tcx() -> io::Result<bool> {
    has_hook(bpf_attach_type::BPF_TCX_INGRESS)
}

/// Whether the kernel has links at a hook of network devices: it is asked for one at a device that cannot be, and says either that or
/// that it knows no such hook.
pub(super) fn has_hook(hook: bpf_attach_type) -> io::Result<bool> {
    /// `r0 = 0; exit`.
    const PROGRAM: [u64; 2] = [0xb7, 0x95];
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    attr.__bindgen_anon_3.insns = PROGRAM.as_ptr() as u64;
    attr.__bindgen_anon_3.insn_cnt = PROGRAM.len() as u32;
    attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    // SAFETY: the command reads the instructions and the license, which outlive it.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    let program = unsafe { OwnedFd::from_raw_fd(descriptor) };
    match create_link(program.as_fd(), i32::MAX as u32, hook) {
        Ok(_) => Ok(true),
        Err(error) => Ok(error.raw_os_error() == Some(libc::ENODEV)),
    }
}

/// Attaches a program to a device's hook (`BPF_LINK_CREATE`), until the link is closed and pinned nowhere.
pub(super) fn create_link(
    program: BorrowedFd<'_>,
    ifindex: u32,
    hook: bpf_attach_type,
) -> io::Result<OwnedFd> {
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = hook as u32;
    // SAFETY: the command reads numbers, and a descriptor that is open.
    let link = unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// Pins something (`BPF_OBJ_PIN`).
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = object.as_raw_fd() as u32;
    // SAFETY: the name outlives the call, and is what this command reads.
    unsafe { bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Takes so much of the kernel's memory, in bytes, until the descriptor is closed: by a map that nobody uses.
pub(super) fn hold_memory(bytes: u32) -> io::Result<OwnedFd> {
    const VALUE: u32 = 4096;
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_1.map_type = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    attr.__bindgen_anon_1.key_size = size_of::<u32>() as u32;
    attr.__bindgen_anon_1.value_size = VALUE;
    attr.__bindgen_anon_1.max_entries = bytes / VALUE;
    // SAFETY: the command reads numbers.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Opens what is pinned somewhere.
fn open_link(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_4.pathname = name.as_ptr() as u64;
    // SAFETY: the name outlives the call, and is what this command reads.
    let descriptor = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes a pinned link run another program (`BPF_LINK_UPDATE`, kernel 5.7), in one step.
pub(super) fn update_link(path: &Path, program: BorrowedFd<'_>) -> io::Result<()> {
    let link = open_link(path)?;
    // SAFETY: as above.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    // SAFETY: the command reads descriptors, which are open.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// bpf(2).
///
/// # Safety
/// The command reads and writes what the attributes point to.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the attributes are as large as we say; what they point to is the caller's care.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
